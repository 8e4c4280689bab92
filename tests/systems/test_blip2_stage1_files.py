"""BLIP-2's chain of directories: the first stage from parts or the original's file, the second, InstructBLIP."""

import json
import re
import shutil

import checkpoints
import ingredients
import minis
import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert.layouts import lavis

OURS = ("temp", "cls.predictions.")
"""The tensors that public files lack."""


def tensors(directory):
    return load_file(directory / "model.safetensors")


def settings(directory):
    return json.loads((directory / "config.json").read_text())


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Name -> directory: parts, and what each step makes of them."""
    root = tmp_path_factory.mktemp("chain")
    parts = {
        "vision": toys.write_model(root / "vision", seed=1),
        "bert": ingredients.write_bert(root),
        "llama": ingredients.write_plain_llama(root / "llama"),
    }
    made = {name: root / name for name in ("stage1", "stage2", "instructblip")}
    families.assemble(made["stage1"], "blip-2", {name: parts[name] for name in ("vision", "bert")}, seed=5)
    families.assemble(made["stage2"], "blip-2", {"qformer": made["stage1"], "language": parts["llama"]}, seed=5)
    families.assemble(made["instructblip"], "instructblip", {"blip2": made["stage2"], "bert": made["stage1"]}, seed=5)
    return parts | made


def test_the_first_stage_begins_as_the_tower_and_bert(chain):
    found, tower, bert = (tensors(chain[name]) for name in ("stage1", "vision", "bert"))
    assert np.array_equal(
        found["vision_model.encoder.layers.0.mlp.fc1.weight"], tower["vision_model.encoder.layers.0.mlp.fc1.weight"]
    )
    assert np.array_equal(found["vision_model.post_layernorm.weight"], np.ones(24, np.float32))
    for half in ("", "_query"):
        ours, theirs = (f"encoder.layer.0.intermediate{x}.dense.weight" for x in (half, ""))
        assert np.array_equal(found[f"qformer.{ours}"], bert[f"bert.{theirs}"])
    words, rows = found["embeddings.word_embeddings.weight"], bert["bert.embeddings.word_embeddings.weight"].shape[0]
    assert np.array_equal(words[:rows], bert["bert.embeddings.word_embeddings.weight"])
    assert words.shape[0] == found["cls.predictions.bias"].shape[0] == rows + 1
    assert found["temp"] == np.float32(0.07)
    assert found["text_projection.weight"].std() > 0.01
    model = ib.from_pretrained(chain["stage1"], dtype="float32")
    assert model.config.writes
    assert (model.config.sep_token_id, model.config.dec_token_id) == (3, rows)
    processor = ib.Processor.from_pretrained(chain["stage1"])
    row = processor.encode("", "Is there a 3!", training=True)["input_ids"]
    assert processor.tokenizer.decode(row) == "is there a 3"
    assert (row[0], row[-1]) == (2, 3)
    assert processor.stop_ids == {3}


def test_the_second_stage_takes_tower_and_queries_of_the_first(chain):
    found, first = tensors(chain["stage2"]), tensors(chain["stage1"])
    heads = ("embeddings.", "text_projection", "vision_projection", "itm_head", *OURS)
    for name, x in first.items():
        left = name.startswith(heads) or re.fullmatch(r"qformer\.encoder\.layer\.\d+\.(intermediate|output)\..+", name)
        assert (name not in found) == bool(left), name
        assert left or np.array_equal(found[name], x), name
    assert settings(chain["stage2"])["architectures"] == ["Blip2ForConditionalGeneration"]
    assert not ib.from_pretrained(chain["stage2"], dtype="float32").config.reads_instruction


def test_instructblip_takes_the_text_half_that_was_trained(chain, tmp_path):
    trained = chain["stage1"]
    found, first = tensors(chain["instructblip"]), tensors(trained)
    for name in ("word_embeddings.weight", "position_embeddings.weight"):
        assert np.array_equal(found[f"qformer.embeddings.{name}"], first[f"embeddings.{name}"])
    for name, x in first.items():
        if name.startswith("qformer.encoder"):
            assert np.array_equal(found[name], x), name
    processor = ib.Processor.from_pretrained(chain["instructblip"])
    own = ib.Processor.from_pretrained(trained).tokenizer
    assert np.array_equal(processor.qformer.encode("is there a 7 ?"), own.encode("is there a 7 ?"))
    with pytest.raises(ValueError, match=r"first stage, which has no language model.*--qformer"):
        families.assemble(tmp_path / "out", "instructblip", {"blip2": trained, "bert": chain["bert"]})


def original(source: dict) -> dict:
    """A directory's tensors by the original's names, written on its own; EVA's keys have no bias."""
    found = {}
    for name, x in source.items():
        name = name.replace("vision_model.post_layernorm", "ln_vision").replace("_projection", "_proj")
        name = name.replace("attention.attention.", "attention.self.").replace(
            "qformer.layernorm", "qformer.embeddings.LayerNorm"
        )
        name = name.replace("qformer.", "Qformer.bert.") if name.startswith("qformer.") else name
        for old, new in (
            ("embeddings.word", "Qformer.bert.embeddings.word"),
            ("embeddings.position_embeddings", "Qformer.bert.embeddings.position_embeddings"),
            ("cls.", "Qformer.cls."),
        ):
            name = name.replace(old, new) if name.startswith(old) else name
        if name.startswith("vision_model."):
            for old, new in (
                ("vision_model.", "visual_encoder."),
                ("encoder.layers.", "blocks."),
                ("layer_norm", "norm"),
                ("self_attn.projection", "attn.proj"),
                ("self_attn.", "attn."),
                ("embeddings.class_embedding", "cls_token"),
                ("embeddings.position_embedding", "pos_embed"),
                ("embeddings.patch_embedding", "patch_embed.proj"),
            ):
                name = name.replace(old, new)
        if name.endswith("qkv.bias"):
            (
                found[name.replace("qkv", "q").replace(".q.bias", ".q_bias")],
                _,
                found[name.replace("qkv.bias", "v_bias")],
            ) = np.split(x, 3)
        else:
            found[name] = x
    return found


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A directory as the public ones are, and the same model's tensors with temperature and head."""
    directory = minis.write(tmp_path_factory.mktemp("public") / "ours", "blip-2-stage-1", seed=4)
    whole = tensors(directory)
    (directory / "config.json").write_text(
        json.dumps({k: x for k, x in settings(directory).items() if k != "pretraining"})
    )
    for name in whole:
        if name.endswith("qkv.bias"):
            third = len(whole[name]) // 3
            whole[name][third : 2 * third] = 0
    kept = {name: x for name, x in whole.items() if not name.startswith(OURS)}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    return directory, whole


def test_a_public_directory_trains_and_stays_as_it_is(public, tmp_path):
    directory, _ = public
    model = ib.from_pretrained(directory, dtype="float32")
    assert not model.config.writes
    assert model.train["temp"] == np.float32(0.07)
    model.save_pretrained(tmp_path / "out")
    assert checkpoints.leaves_equal(tensors(tmp_path / "out"), tensors(directory))
    assert settings(tmp_path / "out") == settings(directory)


@pytest.mark.parametrize("tower", [True, False])
def test_an_original_file_brings_the_temperature_and_the_head(public, tmp_path, tower):
    directory, whole = public
    changed = {name: x + np.float32(1) for name, x in whole.items() if not name.endswith("qkv.bias")}
    changed |= {name: x for name, x in whole.items() if name.endswith("qkv.bias")}
    file = original(changed)
    if not tower:
        file = {name: x for name, x in file.items() if not name.startswith("visual_encoder.")}
    file |= {"Qformer.cls.predictions.decoder.weight": np.zeros((3, 4), np.float32)}
    _, taken, skipped = families.with_replaced(tmp_path / "out", tmp_path / "x.pth", file, directory)
    assert skipped == ["Qformer.cls.predictions.decoder.weight"]
    found = tensors(tmp_path / "out")
    assert found.keys() == whole.keys()
    assert taken == len(file) - 1 - sum(name.endswith("v_bias") for name in file)
    for name, x in found.items():
        replaced = tower or not name.startswith("vision_model.") or "post_layernorm" in name
        assert np.array_equal(x, changed[name] if replaced else whole[name]), name
    assert ib.from_pretrained(tmp_path / "out", dtype="float32").config.writes

    no_head = {name: x for name, x in file.items() if not name.startswith("Qformer.cls.")}
    families.with_replaced(tmp_path / "plain", tmp_path / "x.pth", no_head, directory)
    assert tensors(tmp_path / "plain").keys() == tensors(directory).keys()


def test_a_wrong_original_file_is_refused_with_every_tensor(public, tmp_path):
    directory, whole = public
    file = original(whole)
    file["ln_vision.bias"] = np.zeros(3, np.float32)
    del file["Qformer.cls.predictions.transform.dense.bias"], file["itm_head.weight"]
    file["momentum"] = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"4 tensors do not fit") as error:
        families.with_replaced(tmp_path / "out", tmp_path / "x.pth", file, directory)
    for line in (
        "mis-shaped  ln_vision.bias",
        "missing     cls.predictions",
        "missing     itm_head",
        "unexpected  momentum",
    ):
        assert line in str(error.value)
    with pytest.raises(ValueError, match="q_bias has no"):
        lavis.joined_biases({"visual_encoder.blocks.0.attn.q_bias": np.zeros(2)})
    copy = tmp_path / "llava"
    shutil.copytree(minis.write(tmp_path / "mini", "llava"), copy)
    with pytest.raises(ValueError, match="that is for InstructBLIP, X-InstructBLIP and BLIP-2"):
        families.with_replaced(tmp_path / "out", tmp_path / "x.pth", file, copy)
