"""Flamingo assembled of a CLIP and a language model; what is wrong with files of Flamingo and Idefics."""

import json

import checkpoints
import flamingo_files
import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families

VISION = checkpoints.MINI["vision_config"] | {"image_size": toys.SIZE, "patch_size": 8}


def part(directory, raw, prefix, seed):
    """A directory with the tensors of a whole Flamingo that begin with ``prefix``, without it."""
    (directory.parent / "config.json").write_text(json.dumps(raw))
    shapes = checkpoints.tensor_shapes(directory.parent)
    tensors = {
        name.removeprefix(prefix): checkpoints.values(name, shape, seed)
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return tensors


@pytest.fixture(scope="module", params=["llama", "opt"])
def parts(request, tmp_path_factory):
    """A CLIP tower and a plain language model, whose tables have more rows than its tokenizer tokens."""
    root = tmp_path_factory.mktemp("parts")
    vision, language = root / "vision", root / "language"
    for directory in (vision, language):
        directory.mkdir()
    toys.write_processor(vision)
    words, _ = toys.write_tokenizers(language, "llama")
    raw = flamingo_files.flamingo_json(words + 2, family=request.param) | {"vision_config": VISION}
    tower = part(vision, raw, "vision_tower.", 4)
    text = part(language, raw, "language_model.", 4)
    (vision / "config.json").write_text(json.dumps(VISION | {"model_type": "clip_vision_model"}))
    (language / "config.json").write_text(json.dumps(raw["text_config"]))
    return {"vision": vision, "language": language}, words, tower, text


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "flamingo"
    families.assemble(out, "flamingo", parts[0], seed=3, every=2, queries=5)
    return out


def test_parts_are_taken_and_what_is_new_begins_closed(parts, made):
    _, words, tower, text = parts
    tensors, raw = load_file(made / "model.safetensors"), json.loads((made / "config.json").read_text())
    for prefix, own in (("vision_tower.", tower), ("language_model.", text)):
        for name, x in own.items():
            np.testing.assert_array_equal(tensors[prefix + name], x)
    assert (raw["known_tokens"], raw["chunk_token_id"], raw["image_token_id"]) == (words, words, words + 1)
    gates = [name for name in tensors if name.endswith("_gate")]
    assert len(gates) == 4  # two blocks: before layers 0 and 2 of three
    assert not any(tensors[name].any() for name in gates)
    assert tensors["perceiver.latents"].shape == (5, VISION["hidden_size"])
    assert 0.8 < tensors["perceiver.latents"].std() < 1.2
    weight = tensors["gated_cross_attn_layers.2.ff.1.weight"]
    assert np.abs(weight).max() <= weight.shape[1] ** -0.5


def test_it_begins_as_its_language_model_and_never_writes_a_picture(parts, made):
    _, words, _, text = parts
    if "model.norm.weight" not in text:
        pytest.skip("one language model is enough")
    model = ib.from_pretrained(made, dtype="float32")
    processor = ib.Processor.from_pretrained(made)
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 255, (30, 40, 3), np.uint8) for _ in range(2))
    batches = [processor([[one, other]], ["<image>a 3<image>"]), processor([[other, one]], ["<image>a 3<image>"])]
    logits = [np.asarray(model(batch)) for batch in batches]
    np.testing.assert_array_equal(*logits)  # closed gates: the pictures do not matter
    head = model.train["added/to_vocab/kernel"]
    model.train["added/to_vocab/kernel"] = head + 1e3 * np.sign(model.frozen["llm/norm/scale"])[:, None]
    context = model.prefill(model.encode(batches[0]), batches[0])
    assert context["first"][0] == words + 1
    ids = ib.generate_ids(model, batches[0], max_new_tokens=4)
    assert not (ids == words + 1).any()


def test_parts_of_another_kind_are_named(parts, tmp_path):
    given = parts[0]
    with pytest.raises(ValueError, match="a language model must be llama or opt"):
        families.assemble(tmp_path / "out", "flamingo", given | {"language": given["vision"]})


def edited(source, out, **changes):
    """The configuration of a directory's copy with other fields."""
    out.mkdir()
    (out / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | changes))
    return families.read_config(out)


def test_what_cannot_be_read_is_named(made, tmp_path):
    source = made
    for number, (changes, words) in enumerate(
        [
            ({"cross_attention_config": {"every": 2, "at": 2}}, r"cross_attention_config\.at is 2"),
            ({"known_tokens": 10_000}, "known_tokens 10000 are at most"),
            ({"image_token_id": 3}, "image_token_id and chunk_token_id are among the 2 added_tokens"),
            ({"text_config": {"model_type": "t5"}}, r"text_config\.model_type is 't5'; expected one of llama, opt"),
            ({"sees": "none"}, "sees is 'none'; expected one of latest, all"),
            ({"next_picture": 2}, "next_picture is 2; it is a probability"),
            ({"resampler_config": {"activation": "what"}}, r"resampler_config\.activation is 'what'"),
        ]
    ):
        with pytest.raises(ValueError, match=words):
            edited(source, tmp_path / str(number), **changes)
    idefics = flamingo_files.idefics_json(50)
    for number, (changes, words) in enumerate(
        [
            ({"cross_layer_interval": 2}, "cross_layer_interval 2 does not divide num_hidden_layers 3"),
            ({"additional_vocab_size": 0}, "additional_vocab_size is 0; it must be at least 1"),
            ({"alpha_type": "none"}, "alpha_type is 'none'; expected one of float, vector"),
            ({"vision_embed_dim": 12}, "vision_embed_dim is a field of the first files"),
        ]
    ):
        (tmp_path / f"idefics-{number}").mkdir()
        (tmp_path / f"idefics-{number}" / "config.json").write_text(json.dumps(idefics | changes))
        with pytest.raises(ValueError, match=words):
            families.read_config(tmp_path / f"idefics-{number}")


def test_an_exported_model_remembers_its_options(made, tmp_path):
    model = ib.from_pretrained(made, dtype="float32", sees="all", next_picture=0.25, image_size=32)
    model.save_pretrained(tmp_path / "out")
    config = families.read_config(tmp_path / "out")
    assert (config.sees, config.next_picture, config.vision.image_size) == ("all", 0.25, 32)
    assert ib.Processor.from_pretrained(tmp_path / "out").image.height == 32
    with pytest.raises(ValueError, match="this system has the options image_size, sees, next_picture"):
        ib.from_pretrained(made, instruct_qformer=False)
    with pytest.raises(ValueError, match="sees is 'some'; expected one of latest, all"):
        ib.from_pretrained(made, sees="some")
