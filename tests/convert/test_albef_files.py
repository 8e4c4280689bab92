"""ALBEF's directories: made of a ViT and a BERT, of another form, of the original's files; and what these hold."""

import dataclasses
import json
import re

import checkpoints
import ingredients
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert.assemble import wanted
from instructblip_jax.convert.layouts import albef, albef_original
from instructblip_jax.convert.layouts.albef import TASKS
from instructblip_jax.processors.image import settings

WIDTH, INNER, LAYERS, SIDE, PATCH = 64, 72, 2, 32, 16


def write_vit(directory, *, distilled=False, kind="deit"):
    """A plain ViT in Hugging Face's layout, with a head for classes."""
    directory.mkdir()
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.position_embeddings": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        **{f"layernorm.{part}": (WIDTH,) for part in ("weight", "bias")},
    }
    if distilled:
        shapes["embeddings.distillation_token"] = (1, 1, WIDTH)
    for n in range(LAYERS):
        layer, sizes = f"encoder.layer.{n}", {"intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER)}
        sizes |= {f"attention.attention.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (WIDTH, WIDTH), "layernorm_before": (WIDTH,), "layernorm_after": (WIDTH,)}
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in sizes.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in sizes.items()}
    tensors = {f"{kind}.{name}": checkpoints.values(name, shape, 4) for name, shape in shapes.items()}
    save_file(tensors | {"classifier.bias": np.zeros(3, np.float32)}, directory / "model.safetensors")
    config = {"model_type": kind, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    config |= {"num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, "layer_norm_eps": 1e-12}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    place = tmp_path_factory.mktemp("parts")
    bert, vit = ingredients.write_bert(place), write_vit(place / "vit")
    families.assemble(place / "new", "albef", {"vision": vit, "bert": bert}, seed=3)
    return {"bert": bert, "vit": vit, "new": place / "new", "place": place}


@pytest.fixture(scope="module")
def forms(parts):
    """Task -> the directory that is made of pre-training's."""
    made = {"pretraining": parts["new"]}
    for task in TASKS:
        if task != "pretraining":
            made[task] = parts["place"] / task
            families.assemble(made[task], "albef", {"model": parts["new"]}, task=task, seed=1)
    return made


def test_a_new_model_begins_as_its_parts(parts):
    new, vit = load_file(parts["new"] / "model.safetensors"), load_file(parts["vit"] / "model.safetensors")
    bert = load_file(parts["bert"] / "model.safetensors")
    qkv = [vit[f"deit.encoder.layer.1.attention.attention.{name}.weight"] for name in ("query", "key", "value")]
    assert np.array_equal(new["visual_encoder.blocks.1.attn.qkv.weight"], np.concatenate(qkv))
    assert np.array_equal(new["visual_encoder.pos_embed"], vit["deit.embeddings.position_embeddings"])
    for ours, theirs in (
        ("bert.embeddings.token_type_embeddings.weight",) * 2,
        ("bert.encoder.layer.2.attention.self.key.weight",) * 2,
        ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
        ("cls.predictions.bias", "cls.predictions.bias"),
    ):
        assert np.array_equal(new[f"text_encoder.{ours}"], bert[theirs])
    assert not any("crossattention" in name and ".layer.0." in name for name in new)
    assert 0.01 < new["text_encoder.bert.encoder.layer.1.crossattention.self.key.weight"].std() < 0.03
    assert (new["itm_head.bias"] == 0).all()
    assert new["temp"] == np.float32(0.07)
    config = albef.read_config(parts["new"] / "config.json")
    assert (config.fusion_layer, config.vision.layer_norm_eps, config.vision.num_attention_heads) == (1, 1e-6, 2)
    assert settings(parts["new"])[2]["size"] == {"height": SIDE, "width": SIDE}
    processor = ib.Processor.from_pretrained(parts["new"])
    assert processor.tokenizer.token(config.mask_id) == "[MASK]"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"distilled": True}, "is a distilled DeiT, whose tower has one more token"),
        ({"kind": "clip"}, "model_type is 'clip'; a tower must be vit or deit"),
    ],
)
def test_towers_that_cannot_be_taken(parts, tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        families.assemble(
            tmp_path / "out", "albef", {"vision": write_vit(tmp_path / "vit", **given), "bert": parts["bert"]}
        )


def test_forms_begin_as_pretraining(forms):
    old = load_file(forms["pretraining"] / "model.safetensors")
    answers, pairs = (load_file(forms[task] / "model.safetensors") for task in ("question_answering", "reasoning"))
    layer = "text_encoder.bert.encoder.layer"
    for name in ("attention.self.query.weight", "output.dense.bias"):
        assert np.array_equal(answers[f"text_decoder.bert.encoder.layer.1.{name}"], old[f"{layer}.2.{name}"])
        for n in (0, 1):
            assert np.array_equal(pairs[f"text_encoder.encoder.layer.{3 + n}.{name}"], old[f"{layer}.2.{name}"])
    words = "embeddings.word_embeddings.weight"
    assert np.array_equal(answers[f"text_decoder.bert.{words}"], old[f"text_encoder.bert.{words}"])
    assert np.array_equal(answers["text_decoder.cls.predictions.bias"], old["text_encoder.cls.predictions.bias"])
    # Keys and values of the pictures' width are drawn anew where a decoder reads states of the text's.
    assert answers["text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"].shape == (16, 16)
    assert "text_encoder.encoder.layer.3.crossattention.self.key.weight" in pairs
    assert "text_encoder.encoder.layer.4.crossattention.self.key.weight" not in pairs
    assert np.abs(pairs["cls_head.0.weight"]).max() <= 0.25
    retrieval = load_file(forms["retrieval"] / "model.safetensors")
    assert {name.replace("text_encoder.", "text_encoder.bert.") for name in retrieval if "encoder." in name} | {
        name for name in retrieval if "encoder." not in name
    } == {name for name in old if "cls." not in name}
    with pytest.raises(ValueError, match="architectures is AlbefForVisualReasoning; other forms begin with"):
        families.assemble(forms["reasoning"].parent / "no", "albef", {"model": forms["reasoning"]}, task="retrieval")


def as_original(tensors, task):
    """Ours -> what an original file holds: aliases, buffers, momentum copies and queues on top."""
    found = dict(tensors)
    for name, x in tensors.items():
        if task == "reasoning" and (match := re.search(r"layer\.(\d+)(\.crossattention\.self\.(key|value).*)", name)):
            found[f"text_encoder.encoder.layer.{int(match[1]) + 1}{match[2]}"] = x
        head, _, rest = name.partition(".")
        if head in ("visual_encoder", "text_encoder", "vision_proj", "text_proj"):
            found[f"{head}_m.{rest}"] = x
    for coder in ("text_encoder", "text_decoder"):
        if (bias := tensors.get(f"{coder}.cls.predictions.bias")) is not None:
            found[f"{coder}.cls.predictions.decoder.bias"] = bias
            found[f"{coder}.cls.predictions.decoder.weight"] = tensors[
                f"{coder}.bert.embeddings.word_embeddings.weight"
            ]
    found |= {"image_queue": np.zeros((256, 8)), "idx_queue": np.zeros((1, 8)), "queue_ptr": np.zeros(1, np.int64)}
    return found | {"text_encoder.bert.embeddings.position_ids": np.arange(8)[None]}


@pytest.mark.parametrize("task", TASKS)
def test_an_original_file_and_back(forms, parts, tmp_path, task):
    ours = load_file(forms[task] / "model.safetensors")
    found = as_original(ours, task)
    # A tower's heads are 64 wide in the original; these are 32.
    written, skipped = families.from_original(tmp_path / "out", tmp_path / "a.pth", found, parts["bert"])
    assert sum(x.tensors for x in written) == len(ours)
    assert set(skipped) == found.keys() - ours.keys()
    assert checkpoints.leaves_equal(load_file(tmp_path / "out" / "model.safetensors"), ours)
    there, here = (albef.read_config(d / "config.json") for d in (forms[task], tmp_path / "out"))
    assert there == dataclasses.replace(here, vision=dataclasses.replace(here.vision, num_attention_heads=2))


def test_the_ports_files_have_no_token_types_and_separators(forms, parts, tmp_path):
    ours = load_file(forms["retrieval"] / "model.safetensors")
    found = {name: x for name, x in ours.items() if "token_type" not in name}
    families.from_original(tmp_path / "out", tmp_path / "a.pt", found, parts["bert"])
    config = albef.read_config(tmp_path / "out" / "config.json")
    assert (config.text.token_types, config.add_sep) == (False, True)
    text = "which digit is red"
    there, here = (ib.Processor.from_pretrained(d) for d in (forms["retrieval"], tmp_path / "out"))
    with_end, without = here.caption_row(text, clean=False), there.caption_row(text, clean=False)
    assert [*without, config.sep_id] == with_end.tolist()


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("reasoning", {"text_encoder.encoder.layer.4.crossattention.self.key.bias": np.ones(16)}, "share keys"),
        ("question_answering", {"text_decoder.cls.predictions.decoder.bias": np.ones(3)}, "to which it is tied"),
        ("entailment", {"stray.weight": np.ones(3, np.float32)}, "unexpected  stray"),
    ],
)
def test_files_that_do_not_fit(forms, parts, tmp_path, task, change, words):
    found = as_original(load_file(forms[task] / "model.safetensors"), task) | change
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'a.pth'}.*{words}|{words}"):
        families.from_original(tmp_path / "out", tmp_path / "a.pth", found, parts["bert"])


def published(task):
    """Name -> shape of the original's files at full size, written down from their description."""
    v, d, inner, words = 768, 768, 3072, 30522

    def both(name, *shape):
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    side = 256 if task == "pretraining" else 384
    out = {"visual_encoder.cls_token": (1, 1, v), "visual_encoder.pos_embed": (1, (side // 16) ** 2 + 1, v)}
    out |= both("visual_encoder.patch_embed.proj", v, 3, 16, 16) | both("visual_encoder.norm", v)
    for n in range(12):
        block = f"visual_encoder.blocks.{n}"
        out |= both(f"{block}.norm1", v) | both(f"{block}.norm2", v) | both(f"{block}.attn.qkv", 3 * v, v)
        out |= (
            both(f"{block}.attn.proj", v, v) | both(f"{block}.mlp.fc1", inner, v) | both(f"{block}.mlp.fc2", v, inner)
        )

    def bert(prefix, layers, first):
        found = {
            f"{prefix}embeddings.{n}_embeddings.weight": (rows, d)
            for n, rows in (("word", words), ("position", 512), ("token_type", 2))
        } | both(f"{prefix}embeddings.LayerNorm", d)
        for n in range(layers):
            layer = f"{prefix}encoder.layer.{n}"
            for kind in ("attention",) if n < first else ("attention", "crossattention"):
                for name in ("self.query", "self.key", "self.value", "output.dense"):
                    found |= both(f"{layer}.{kind}.{name}", d, d)
                found |= both(f"{layer}.{kind}.output.LayerNorm", d)
            found |= both(f"{layer}.intermediate.dense", inner, d) | both(f"{layer}.output.dense", d, inner)
            found |= both(f"{layer}.output.LayerNorm", d)
        return found

    def head(prefix):
        found = both(f"{prefix}transform.dense", d, d) | both(f"{prefix}transform.LayerNorm", d)
        return found | both(f"{prefix}decoder", words, d) | {f"{prefix}bias": (words,)}

    prefix = "text_encoder.bert." if task == "pretraining" else "text_encoder."
    out |= bert(prefix, 18 if task == "reasoning" else 12, 6)
    if task == "pretraining":
        out |= head("text_encoder.cls.predictions.")
    if task in ("pretraining", "retrieval"):
        out |= both("vision_proj", 256, v) | both("text_proj", 256, d) | both("itm_head", 2, d) | {"temp": ()}
        copied = [name for name in out if name.startswith(("visual_", "text_", "vision_"))]
        out |= {re.sub(r"^(\w+?)\.", r"\1_m.", name): out[name] for name in copied}
        out |= {"image_queue": (256, 65536), "text_queue": (256, 65536), "queue_ptr": (1,)}
    if task == "question_answering":
        out |= bert("text_decoder.bert.", 6, 0) | head("text_decoder.cls.predictions.")
    if task in ("reasoning", "entailment"):
        out |= both("cls_head.0", d, d) | both("cls_head.2", {"reasoning": 2, "entailment": 3}[task], d)
    return out


@pytest.mark.parametrize("task", TASKS)
def test_the_whole_lists_of_the_published_files(parts, tmp_path, task):
    listed = published(task)
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in listed.items()}
    bert = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((parts["bert"] / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(bert | {"intermediate_size": 3072}))
    draft, skipped = albef_original.draft(tmp_path / "a.pth", tensors, tmp_path, 0)
    (tmp_path / "config.json").write_text(json.dumps(draft.files["config.json"]))
    config = albef.read_config(tmp_path / "config.json")
    want = wanted(config, albef.rules(config))
    assert {name: x.shape for name, x in draft.tensors.items()} == want
    assert draft.tensors.keys() | set(skipped) == listed.keys()
    assert config.vision.num_attention_heads == 12
    if task == "pretraining":
        sizes = {name: int(np.prod(shape)) for name, shape in want.items()}
        assert sum(x for name, x in sizes.items() if name.startswith("text_encoder.")) == 123_697_722
        assert sum(x for name, x in sizes.items() if name.startswith("visual_encoder.")) == 85_844_736
