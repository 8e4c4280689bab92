"""BLIP's directories: made of a ViT and a BERT, of another form, of the authors' files, of a pytorch_model.bin; and the
whole lists of the public ones."""

import json
import math
import re
import sys

import checkpoints
import ingredients
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert import plain_vit
from instructblip_jax.convert.assemble import wanted
from instructblip_jax.convert.layouts import hf_blip
from instructblip_jax.convert.layouts.hf_blip import TASKS
from instructblip_jax.convert.shards import open_shards

TIMM = (
    (r"^vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"^vision_model\.post_layernorm", "visual_encoder.norm"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.blocks.\1.norm"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection", r"visual_encoder.blocks.\1.attn.proj"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn", r"visual_encoder.blocks.\1.attn"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp", r"visual_encoder.blocks.\1.mlp"),
)
WORDS = "embeddings.word_embeddings.weight"


def original(name):
    for pattern, other in TIMM:
        name = re.sub(pattern, other, name)
    return name


def plain_tower(directory):
    """A ViT in Hugging Face's own layout whose sizes no other part has; 64 wide, so that it has one head."""
    shapes = {
        "embeddings.cls_token": (1, 1, 64),
        "embeddings.position_embeddings": (1, 5, 64),
        "embeddings.patch_embeddings.projection.weight": (64, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": (64,),
        "layernorm.weight": (64,),
        "layernorm.bias": (64,),
    }
    dense = {f"attention.attention.{name}": 64 for name in ("query", "key", "value")}
    dense |= {"attention.output.dense": 64, "intermediate.dense": 40, "output.dense": 64}
    for name, rows in dense.items():
        columns = 40 if name == "output.dense" else 64
        shapes |= {f"encoder.layer.0.{name}.weight": (rows, columns), f"encoder.layer.0.{name}.bias": (rows,)}
    shapes |= {f"encoder.layer.0.layernorm_{n}.{p}": (64,) for n in ("before", "after") for p in ("weight", "bias")}
    directory.mkdir()
    save_file({name: checkpoints.values(name, x, 4) for name, x in shapes.items()}, directory / "model.safetensors")
    sizes = {"hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"model_type": "vit", "image_size": 16, "patch_size": 8}
    (directory / "config.json").write_text(json.dumps(sizes))
    return directory


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    place = tmp_path_factory.mktemp("parts")
    return {"bert": ingredients.write_bert(place), "vision": plain_tower(place / "vit"), "place": place}


@pytest.fixture(scope="module")
def forms(parts):
    """Task -> the directory that is made of pre-training's, whose BERT reads no picture in no layer."""
    made = {"pretraining": parts["place"] / "pretraining"}
    families.assemble(made["pretraining"], "blip", {"vision": parts["vision"], "bert": parts["bert"]}, seed=3)
    path = made["pretraining"] / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"text_config": raw["text_config"] | {"merge_layer": 1}}))
    for task in TASKS:
        if task != "pretraining":
            made[task] = parts["place"] / task
            families.assemble(made[task], "blip", {"model": made["pretraining"]}, task=task, seed=1)
    return made


def tensors(directory):
    return load_file(directory / "model.safetensors")


def test_a_new_model_begins_as_its_parts(parts, forms):
    new, bert = tensors(forms["pretraining"]), tensors(parts["bert"])
    _, tower = plain_vit.read(parts["vision"])
    assert np.array_equal(
        new["vision_model.encoder.layers.0.self_attn.qkv.bias"], tower["blocks.0.attn.qkv.bias"].read()
    )
    for prefix in ("text_encoder.", "text_decoder.bert."):
        name = "encoder.layer.2.attention.self.key.weight"
        assert np.array_equal(new[prefix + name], bert[f"bert.{name}"])
    words = bert[f"bert.{WORDS}"]
    assert np.array_equal(new[f"text_encoder.{WORDS}"][:-2], words)
    assert new["text_decoder.cls.predictions.bias"].shape == (len(words) + 2,)
    assert new["temp"] == np.float32(0.07)
    shared = {name for name in new if name.startswith("text_decoder.bert.") and ".attention." not in name}
    assert not shared  # one leaf each
    config = hf_blip.read_config(forms["pretraining"] / "config.json")
    assert (config.dec_id, config.enc_id, config.text.num_attention_heads) == (len(words), len(words) + 1, 2)
    assert ib.Processor.from_pretrained(forms["pretraining"]).end_id == config.sep_id


def test_forms_begin_as_pretraining(forms):
    old = tensors(forms["pretraining"])
    captions, answers, pairs, judge = (
        tensors(forms[task]) for task in ("captioning", "question_answering", "retrieval", "reasoning")
    )
    layer = "encoder.layer.1"
    own, shared = f"{layer}.attention.self.key.weight", f"{layer}.output.dense.weight"
    for decoder in (captions, answers):
        assert np.array_equal(decoder[f"text_decoder.bert.{own}"], old[f"text_decoder.bert.{own}"])
        assert np.array_equal(decoder[f"text_decoder.bert.{shared}"], old[f"text_encoder.{shared}"])
        assert np.array_equal(decoder[f"text_decoder.bert.{WORDS}"], old[f"text_encoder.{WORDS}"])
    assert not any(name.startswith("text_encoder.") for name in captions)
    # This decoder reads states of the text, which is less wide than the tower.
    assert answers[f"text_decoder.bert.{layer}.crossattention.self.key.weight"].shape == (16, 16)
    assert pairs.keys() == {name for name in old if not name.startswith("text_decoder.")}
    for n in (0, 1):
        name = f"text_encoder.{layer}.crossattention.self"
        assert np.array_equal(judge[f"{name}{n}.key.weight"], old[f"{name}.key.weight"])
    assert f"text_encoder.{layer}.crossattention.output.merge_layer.weight" in judge
    assert "text_encoder.encoder.layer.0.crossattention.output.merge_layer.weight" not in judge
    with pytest.raises(ValueError, match="BlipForQuestionAnswering begins with BlipForPreTraining"):
        families.assemble(
            forms["captioning"].parent / "no", "blip", {"model": forms["retrieval"]}, task="question_answering"
        )


def as_original(stored, task):
    """Ours -> what an original file holds: shared tensors twice, aliases, buffers, momentum copies, queues."""
    found = {original(name): x for name, x in stored.items()}
    if task == "pretraining":
        for name, x in stored.items():
            plain = name.removeprefix("text_encoder.")
            if plain != name and ".attention." not in plain:
                found[f"text_decoder.bert.{plain}"] = x
    for name, x in list(found.items()):
        head, _, rest = name.partition(".")
        if head in ("visual_encoder", "text_encoder", "vision_proj", "text_proj"):
            found[f"{head}_m.{rest}"] = x
    if (bias := found.get("text_decoder.cls.predictions.bias")) is not None:
        found["text_decoder.cls.predictions.decoder.bias"] = bias
        found["text_decoder.cls.predictions.decoder.weight"] = found[f"text_decoder.bert.{WORDS}"]
    found |= {"image_queue": np.zeros((256, 8)), "idx_queue": np.zeros((1, 8)), "ptr_queue": np.zeros(1, np.int64)}
    return found | {"text_encoder.embeddings.position_ids": np.arange(8)[None]}


@pytest.mark.parametrize("task", TASKS)
def test_an_original_file_and_back(forms, parts, tmp_path, task):
    ours = tensors(forms[task])
    found = as_original(ours, task)
    written, skipped = families.from_original(tmp_path / "out", tmp_path / "a.pth", found, parts["bert"])
    assert sum(x.tensors for x in written) == len(ours)
    assert set(skipped) == found.keys() - {original(name) for name in ours}
    assert checkpoints.leaves_equal(tensors(tmp_path / "out"), ours)
    there, here = (hf_blip.read_config(d / "config.json") for d in (forms[task], tmp_path / "out"))
    assert type(here) is type(there)
    assert here == there


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("pretraining", {f"text_decoder.bert.{WORDS}": np.ones((3, 3))}, "to which it is tied"),
        ("captioning", {"text_decoder.cls.predictions.decoder.bias": np.ones(3)}, "to which it is tied"),
        ("retrieval", {"stray.weight": np.ones(3, np.float32)}, "unexpected  stray"),
        ("retrieval", {"visual_encoder.pos_embed": None}, "are not a complete model of a supported original project"),
    ],
)
def test_files_that_do_not_fit(forms, parts, tmp_path, task, change, words):
    found = {name: x for name, x in (as_original(tensors(forms[task]), task) | change).items() if x is not None}
    with pytest.raises(ValueError, match=words):
        families.from_original(tmp_path / "out", tmp_path / "a.pth", found, parts["bert"])


def test_a_pytorch_model_bin_is_told_what_to_do_with_it(forms, tmp_path):
    source = tmp_path / "old"
    source.mkdir()
    for path in forms["captioning"].glob("*.json"):
        (source / path.name).write_bytes(path.read_bytes())
    (source / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"convert --original .*pytorch_model\.bin --out DIR"):
        open_shards(source)
    ours = tensors(forms["captioning"])
    extra = {
        "text_decoder.bert.embeddings.position_ids": np.arange(40)[None],
        "text_decoder.cls.predictions.decoder.weight": ours[f"text_decoder.bert.{WORDS}"],
        "text_decoder.cls.predictions.decoder.bias": ours["text_decoder.cls.predictions.bias"],
    }
    families.rewritten(tmp_path / "out", source, ours | extra)
    assert checkpoints.leaves_equal(tensors(tmp_path / "out"), ours)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match="unexpected  stray"):
        families.rewritten(tmp_path / "no", source, ours | {"stray": np.ones(3, np.float32)})


LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
PUBLIC = {
    # parameters, tensors: of Salesforce's repositories, whose sparse configurations are these
    ("captioning", "base"): (223_971_644, 0),
    ("captioning", "large"): (446_290_492, 0),
    ("question_answering", "base"): (361_230_140, 0),
    ("retrieval", "base"): (223_744_258, 472),
    ("retrieval", "large"): (446_128_642, 616),
}


@pytest.mark.parametrize(("task", "size"), PUBLIC)
def test_the_public_checkpoints_at_full_size(tmp_path, task, size):
    raw = {"architectures": [TASKS[task]], "model_type": "blip", "vision_config": LARGE if size == "large" else {}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = hf_blip.read_config(tmp_path / "config.json")
    assert (config.text.num_attention_heads, config.vision.layer_norm_eps, config.dec_id) == (8, 1e-5, 30522)
    shapes = wanted(config, hf_blip.rules(config))
    parameters, count = PUBLIC[task, size]
    assert sum(map(math.prod, shapes.values())) == parameters
    assert count in (0, len(shapes))
    if "transformers" in sys.modules:  # another test of this run has paid for it
        import torch
        import transformers

        with torch.device("meta"):
            settings = transformers.AutoConfig.from_pretrained(tmp_path)
            theirs = getattr(transformers, TASKS[task])(settings).state_dict()
        ignored = hf_blip.ignored(config)
        there = {name: tuple(x.shape) for name, x in theirs.items() if not ignored.fullmatch(name)}
        assert shapes == there
