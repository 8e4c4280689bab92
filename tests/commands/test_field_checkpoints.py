"""Checkpoints as found in the field, from the command line: saved again by today's transformers, next to the index of
an earlier save, with several end tokens."""

import json
import shutil

import numpy as np
import pytest
import toys
from PIL import Image
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax.convert.shards import INDEX, SINGLE

TEXT = "how many digits are there ?"


@pytest.fixture
def model(world, tmp_path):
    return shutil.copytree(world / "model", tmp_path / "model")


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def ranked(cli, picture, tmp_path):
    """A function: directory -> the log-likelihoods of three candidates, which show the logits' scale, and stderr."""

    def run(directory) -> tuple[dict[str, float], str]:
        given = [f"--model={directory}", f"--image={picture}", "--dtype=float32", f"--json={tmp_path / 'a.json'}"]
        result = cli("answer", *given, "--candidates=3,red,top-left", TEXT)
        assert result.code == 0, result.err
        (row,) = json.loads((tmp_path / "a.json").read_text())["answers"]
        return {entry["candidate"]: entry["log_likelihood"] for entry in row["ranking"]}, result.err

    return run


def edit(path, change) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_a_directory_that_transformers_saved_again_answers_as_before(ranked, world, model):
    """The files as transformers 5 writes them; `convert/test_resaved.py` lets it write them itself."""
    settings = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").unlink()
    (model / "processor_config.json").write_text(json.dumps({"image_processor": settings, "num_query_tokens": 4}))
    fields = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    edit(model / "config.json", lambda raw: raw["text_config"].update(fields))
    want, _ = ranked(world / "model")
    assert ranked(model)[0] == want
    edit(model / "config.json", lambda raw: raw["text_config"].update(scale_decoder_outputs=True))
    assert ranked(model)[0] != want


@pytest.mark.parametrize("shards", [False, True])
def test_the_index_of_an_earlier_save_loses_and_is_told(ranked, world, model, shards):
    tensors = load_file(model / SINGLE)
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    if shards:
        for file, part in parts.items():
            save_file({name: tensors[name] * np.float32(0.5) for name in part}, model / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (model / INDEX).write_text(json.dumps(index))
    got, stderr = ranked(model)
    want, clean_stderr = ranked(world / "model")
    assert got == want
    assert f"{INDEX} and its files are left over" in stderr
    assert INDEX not in clean_stderr


@pytest.mark.parametrize("family", ["instructblip", "llama", "opt"])
def test_an_answer_ends_at_any_of_several_end_tokens(cli, tmp_path, picture, family):
    """A token of the answer becomes an end token in addition to the checkpoint's own."""
    model = shutil.copytree(toys.GOLDENS / family, tmp_path / "model")
    named = json.loads((model / "config.json").read_text())["text_config"]["eos_token_id"]
    ours, processor = ib.InstructBlip.from_pretrained(model, dtype="float32"), ib.Processor.from_pretrained(model)
    batch = processor([picture], ["is it red ? yes or no"])
    (free,) = ib.generate_ids(ours, batch, max_new_tokens=6).tolist()
    end = free[3]
    assert not {end, named, processor.end_id} & set(free[:3])
    edit(model / "config.json", lambda raw: raw["text_config"].update(eos_token_id=[named, end]))
    asked = [f"--image={picture}", "--dtype=float32", "--max_new_tokens=6", f"--json={tmp_path / 'a.json'}"]
    result = cli("answer", f"--model={model}", *asked, "is it red ? yes or no")
    assert result.code == 0, result.err
    (row,) = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert row["answer"] == processor.decode(np.array([free[:3]]))[0]
    ours = ib.InstructBlip.from_pretrained(model, dtype="float32")
    ids = ib.generate_ids(ours, batch, max_new_tokens=6)
    assert ids.tolist() == [free[:4]]
    ends = {"instructblip": (named, end), "llama": (2, named, end), "opt": (named, end)}[family]
    assert ours.config.text.eos_token_id == ends  # LLaMA's tokenizer names another one than its configuration
