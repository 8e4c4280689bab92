"""KOSMOS-1 assembled of a CLIP and a tokenizer, and what is wrong with files of KOSMOS."""

import json
import math
from pathlib import Path

import checkpoints
import kosmos_toys
import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert.drafts import kosmos as draft
from instructblip_jax.models.language.magneto import MagnetoConfig

CLIP = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GOLDEN = Path(__file__).parents[1] / "goldens" / "kosmos1" / "expected.npz"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A CLIP tower, and a tokenizer with the sizes of a small decoder."""
    root = tmp_path_factory.mktemp("parts")
    vision, language = root / "vision", root / "language"
    for directory in (vision, language):
        directory.mkdir()
    toys.write_tokenizers(language, "llama")
    raw = kosmos_toys.config_json(90, checkpoints.MINI) | {"text_config": dict(kosmos_toys.TEXT)}
    (language / "config.json").write_text(json.dumps(raw))
    toys.write_processor(vision)
    section = CLIP | {"image_size": toys.SIZE, "patch_size": 8, "model_type": "clip_vision_model"}
    (vision / "config.json").write_text(json.dumps(section))
    names = kosmos_toys.config_json(90, checkpoints.MINI) | {"vision_config": section}
    (root / "config.json").write_text(json.dumps(names))
    start = "vision_model.model."
    shapes = {n.removeprefix(start): x for n, x in checkpoints.tensor_shapes(root).items() if n.startswith(start)}
    tensors = {f"vision_model.{name}": checkpoints.values(name, shape, 4) for name, shape in shapes.items()}
    save_file(tensors, vision / "model.safetensors", metadata={"format": "pt"})
    return {"vision": vision, "language": language}


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "kosmos-1"
    families.assemble(out, "kosmos-1", parts, seed=3)
    return out


def test_the_tower_is_taken_and_the_rest_begins_as_torchscale_begins_it(parts, made):
    tensors, tower = load_file(made / "model.safetensors"), load_file(parts["vision"] / "model.safetensors")
    for name, x in tower.items():
        np.testing.assert_array_equal(tensors[f"vision_model.model.{name.removeprefix('vision_model.')}"], x)
    layers, width = kosmos_toys.TEXT["layers"], kosmos_toys.TEXT["embed_dim"]
    wider = math.sqrt(math.log(2 * layers))
    for name, x in tensors.items():
        if not name.startswith("text_model.model.layers.0.") and not name.startswith("image_to_text_projection."):
            continue
        layer, _, kind = name.rpartition(".")
        if layer.endswith(("norm", "_ln")):
            assert (x == (kind == "weight")).all()
            continue
        inputs = kosmos_toys.TEXT["ffn_dim"] if "fc2" in name else CLIP["hidden_size"] if ".dense" in name else width
        if name.endswith("latent_query"):
            assert x.std() == pytest.approx(1, rel=0.2)
            continue
        wide = layer.startswith("text_model") and layer.endswith(("v_proj", "out_proj", "fc1", "fc2"))
        bound = (wider if wide else 1) * inputs**-0.5
        assert 0.8 * bound < np.abs(x).max() <= bound, name
    assert tensors["text_model.model.embed_tokens.weight"].std() == pytest.approx(width**-0.5, rel=0.1)


def test_first_values_have_the_published_bounds():
    bounds = {name: x for name, x in np.load(GOLDEN).items() if name.startswith("bound/")}
    assert len(bounds) == 6
    config = MagnetoConfig(embed_dim=32, ffn_dim=64, layers=3)
    for name, bound in bounds.items():
        inputs = 64 if "fc2" in name else 32
        drawn = draft.draw(name.removeprefix("bound/"), (4096 // inputs, inputs), config=config, seen=8, seed=0).read()
        assert 0.995 * bound < np.abs(drawn).max() <= bound * (1 + 1e-6), name


def test_it_loads_answers_and_trains(made):
    model, processor = ib.from_pretrained(made, dtype="float32"), ib.Processor.from_pretrained(made)
    assert model.config.text.positions == "xpos"
    assert model.config.vocab_size % 64 == 0
    pictures = [np.full((24, 24, 3), 40 * n, np.uint8) for n in range(3)]
    answers = ib.generate(
        model, processor, [pictures[:2], pictures[2:]], ["<image>two<image>", "two"], max_new_tokens=3
    )
    assert len(answers) == 2
    loss = float(ib.loss(model, processor(pictures, ["two"] * 3, ["is there a 7 ?"] * 3))[0])
    assert loss == pytest.approx(math.log(model.config.vocab_size), rel=0.25)
    last = ib.from_pretrained(made, dtype="float32", trainable="last_vision_layer")
    assert {path.split("/")[1] for path in last.train if path.startswith("vit/")} == {"last", "post_norm"}
    assert not any(path.startswith("vit/last") for path in last.frozen)


def test_sizes_of_another_model_are_not_meant(parts, tmp_path):
    language = tmp_path / "language"
    language.mkdir()
    toys.write_tokenizers(language, "llama")
    (language / "config.json").write_text('{"model_type": "llama", "hidden_size": 32, "embed_dim": 8}')
    drafted = draft.draft("kosmos-1", {**parts, "language": language}, 0).files["config.json"]
    assert drafted["latent_query_num"] == 64
    assert "embed_dim" not in drafted["text_config"]


FAULTS = {
    "positions": ({"positions": "rotary"}, {}, "text_config.positions is 'rotary'; expected one of xpos, sinusoidal"),
    "rate": ({"dropout": 1.0}, {}, "text_config.dropout is 1.0; a rate is below 1"),
    "pairs": ({"attention_heads": 3}, {}, "text_config.embed_dim 32 is not a multiple of twice the attention_heads 3"),
    "cross": ({"add_cross_attention": True}, {}, "text_config.add_cross_attention is True; only False is supported"),
    "slots": ({}, {"latent_query_num": 200}, "an image takes the ids 4 to 203"),
    "boundary": ({}, {"image_begin_token_id": 5}, "<image> 5, </image> 89"),
    "tower": ({}, {"vision_config": CLIP | {"num_hidden_layers": 1}}, "a tower of at least 2 layers is supported"),
    "other": ({}, {"model_type": "kosmos-2.5"}, "this layout is that of kosmos-2, kosmos-1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_is_named(tmp_path, fault):
    text, fields, message = FAULTS[fault]
    raw = kosmos_toys.config_json(90, checkpoints.MINI, **text) | fields
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        families.KOSMOS.read_config(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(error.value)


def test_boundaries_are_the_tokenizers_where_the_file_lacks_them(made, tmp_path):
    raw = json.loads((made / "config.json").read_text())
    ids = [raw.pop(field) for field in ("image_begin_token_id", "image_end_token_id")]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    config = families.read_config(tmp_path)
    assert [config.begin_id, config.end_id] == ids
    toys.write_tokenizers(tmp_path, "llava")  # has the first alone
    with pytest.raises(ValueError, match=r"tokenizer\.json: has no token </image>"):
        families.read_config(tmp_path)
