"""Directories that today's transformers loaded and saved again, every family: read as the library itself reads them."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax.convert.layouts import hf_instructblip

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import reference
import toys

FAMILIES = {
    "t5": "instructblip",
    "t5-tied": "instructblip",
    "t5-in-shards": "instructblip",
    "llama": "llama",
    "blip2-t5": "blip2",
    "blip2-opt": "opt",
    "video-t5": "instructblip",
    "video-llama": "llama",
}
"""Name -> the committed checkpoint that it is made of."""
TEXTS = ["What is on the bench ?", "a photo of"]
ANSWERS = ["a dog", "yes , two cats"]


def edit(path: Path, change) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def write(name: str, directory: Path) -> Path:
    """The checkpoint as releases of before wrote it."""
    shutil.copytree(toys.GOLDENS / FAMILIES[name], directory)
    if name == "blip2-t5":  # has the tokenizer of "instructblip"
        for path in (toys.GOLDENS / "instructblip").glob("*token*.json"):
            shutil.copy(path, directory)
    if name.startswith("video"):

        def to_video(raw: dict) -> None:
            raw |= {"model_type": "instructblipvideo", "video_token_index": raw.pop("image_token_index")}
            raw["qformer_config"]["model_type"] = "instructblipvideo_qformer"

        edit(directory / "config.json", to_video)
    if name == "t5-tied":  # whose outputs are scaled
        edit(directory / "config.json", lambda raw: raw["text_config"].pop("tie_word_embeddings"))
        tensors = load_file(directory / "model.safetensors")
        del tensors["language_model.lm_head.weight"]
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def resave(name: str, source: Path, out: Path) -> Path:
    """Load and save model and processor with the library."""
    size = "40KB" if name == "t5-in-shards" else "5GB"
    reference.load(source, dtype=reference.torch.float32).save_pretrained(out, max_shard_size=size)
    transformers = reference.transformers
    if not name.startswith("video"):
        transformers.AutoProcessor.from_pretrained(source).save_pretrained(out)
        return out
    # The library's class for videos needs torchvision. It writes what that for pictures does, under another name.
    for folder in ("", "qformer_tokenizer"):
        transformers.AutoTokenizer.from_pretrained(source / folder).save_pretrained(out / folder)
    nested = transformers.AutoImageProcessor.from_pretrained(source).to_dict()
    nested |= {"video_processor_type": "InstructBlipVideoVideoProcessor"}
    (out / "processor_config.json").write_text(json.dumps({"video_processor": nested, "num_query_tokens": 4}))
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_library_saves_is_read_as_the_library_reads_it(name, tmp_path):
    before = write(name, tmp_path / "before")
    after = resave(name, before, tmp_path / "after")
    assert not (after / "preprocessor_config.json").exists()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (30 + n, 40, 3), np.uint8) for n in range(2)]
    if name.startswith("video"):
        pictures = [[picture, picture[::-1].copy()] for picture in pictures]
    want, batch = (ib.Processor.from_pretrained(path)(pictures, TEXTS, ANSWERS) for path in (before, after))
    assert want.keys() == batch.keys()
    for key in want:
        np.testing.assert_array_equal(batch[key], want[key], err_msg=key)

    theirs = reference.load(after)
    truth = reference.answers(theirs, reference.inputs(theirs, batch), trained=())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing of such a directory is left aside
        model = ib.InstructBlip.from_pretrained(after, dtype="float32")
    counted = batch["attention_mask"] == 1 if model.config.decoder_only else slice(None)
    assert np.abs(np.asarray(model(batch)) - truth["logits"])[counted].max() < 1e-4
    assert abs(float(ib.loss(model, batch)[0]) - float(truth["loss"])) < 1e-4
    new, old = (hf_instructblip.read_config(path / "config.json") for path in (after, before))
    assert (new.vision, new.text, new.image_token_id) == (old.vision, old.text, old.image_token_id)


def parsed(tmp_path, **text):
    """The parsed configuration of a T5 with these fields in text_config; ... takes a field out."""
    directory = tmp_path / "model"
    if not directory.exists():
        shutil.copytree(toys.GOLDENS / "instructblip", directory)
    raw = json.loads((toys.GOLDENS / "instructblip" / "config.json").read_text())
    changed = raw["text_config"] | text
    raw["text_config"] = {field: value for field, value in changed.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(raw))
    return hf_instructblip.read_config(directory / "config.json").text, directory


@pytest.mark.parametrize("tied", [True, False, None, ...])
@pytest.mark.parametrize("scaled", [True, False, None, ...])
def test_outputs_are_scaled_where_the_library_scales_them(tmp_path, tied, scaled):
    text, directory = parsed(tmp_path, tie_word_embeddings=tied, scale_decoder_outputs=scaled)
    theirs = reference.transformers.AutoConfig.from_pretrained(directory).text_config
    assert text.scale_outputs == bool(theirs.scale_decoder_outputs)


def test_a_scale_that_is_no_truth_value_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: text_config\.scale_decoder_outputs is 'no'"):
        parsed(tmp_path, scale_decoder_outputs="no")


@pytest.mark.parametrize(
    ("fields", "base"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 2e4}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": None}, 5e5),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 2e4}, 2e4),
        ({"rope_scaling": {"type": "default"}, "rope_theta": 2e4}, 2e4),
        ({"rope_theta": 2e4, "rope_scaling": None}, 2e4),
        ({}, 1e4),
    ],
)
def test_the_rotary_base_is_the_one_that_the_library_takes(tmp_path, fields, base):
    raw = json.loads((toys.GOLDENS / "llama" / "config.json").read_text())
    for field in ("rope_theta", "rope_scaling"):
        raw["text_config"].pop(field)
    raw["text_config"] |= fields
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = reference.transformers.AutoConfig.from_pretrained(tmp_path).text_config
    assert (
        hf_instructblip.read_config(tmp_path / "config.json").text.rope_theta
        == base
        == theirs.rope_parameters["rope_theta"]
    )
