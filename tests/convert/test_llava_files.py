"""LLaVA's directories: what is read of config.json, and what is assembled of a CLIP and a LLaMA."""

import json
import re
import shutil

import checkpoints
import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families

VISION = checkpoints.MINI["vision_config"] | {"num_hidden_layers": 3}
TEXT = checkpoints.TEXT["grouped"] | {"eos_token_id": 2, "bos_token_id": 1}
SETTINGS = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.3],
    "crop_size": {"height": 42, "width": 42},
    "size": {"shortest_edge": 42},
}


def save(directory, config, tensors):
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A whole LLaVA, and the parts that it is made of: CLIP, and a language model without rows for ``<image>``."""
    root = tmp_path_factory.mktemp("parts")
    language = root / "language"
    language.mkdir()
    toys.write_tokenizers(root / "whole", "llava")
    words, _ = toys.write_tokenizers(language, "llama")
    raw = checkpoints.llava_json(words + 2, sizes=checkpoints.MINI)
    (root / "whole" / "config.json").write_text(json.dumps(raw | {"vision_feature_layer": -1}))
    shapes = checkpoints.tensor_shapes(root / "whole")  # all layers
    shapes |= {f"vision_tower.vision_model.post_layernorm.{kind}": (40,) for kind in ("weight", "bias")}
    tensors = {name: checkpoints.values(name, shape, 5) for name, shape in shapes.items()}
    save(root / "whole", raw, tensors)
    tower = {name.removeprefix("vision_tower."): x for name, x in tensors.items() if name.startswith("vision_tower.")}
    other = {"text_model.final_layer_norm.weight": np.ones(3, np.float32), "logit_scale": np.ones((), np.float32)}
    old = {"vision_model.embeddings.position_ids": np.arange(10)[None]}
    save(root / "clip", {"model_type": "clip", "vision_config": VISION}, tower | other | old)
    (root / "clip" / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    plain = {
        name.removeprefix("language_model."): x for name, x in tensors.items() if name.startswith("language_model.")
    }
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        plain[name] = plain[name][:words]
    save(language, TEXT | {"vocab_size": words}, plain)
    return root, words, tensors


def assembled(out, vision, language, **options):
    families.assemble(out, "llava", {"vision": vision, "language": language}, **options)
    return ib.from_pretrained(out, dtype="float32"), load_file(out / "model.safetensors")


@pytest.mark.parametrize(("projector", "act"), [("mlp", "gelu"), ("linear", "linear")])
def test_parts_make_a_model_with_a_new_projector(parts, tmp_path, projector, act):
    root, words, tensors = parts
    model, written = assembled(tmp_path / "out", root / "clip", root / "language", projector=projector, seed=3)
    assert written.keys() == tensors.keys()  # the tower's last layer and norm too
    for name, x in written.items():
        if "embed_tokens" in name or "lm_head" in name:
            assert x.shape[0] % 64 == 0
            assert (x[:words] == tensors[name][:words]).all()
        elif not name.startswith("multi_modal_projector."):
            assert (x == tensors[name]).all(), name
    first, second = (written[f"multi_modal_projector.linear_{n}.weight"] for n in (1, 2))
    assert np.abs(first).max() <= 40**-0.5
    assert 0.9 < np.std(first) / (40**-0.5 / 3**0.5) < 1.1  # torch's uniform start
    assert (np.array_equal(second, np.eye(36))) == (projector == "linear")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["projector_hidden_act"] == act
    processor = ib.Processor.from_pretrained(tmp_path / "out")
    assert (raw["image_token_index"], raw["pad_token_id"]) == (words, words + 1)
    assert model.config.pad_id == processor.tokenizer.pad_id == words + 1
    picture = np.zeros((50, 60, 3), np.uint8)
    assert len(ib.generate(model, processor, picture, "how many digits are there ?", max_new_tokens=2)) == 1


def authors(parts, out, names, **fields):
    """A directory in the authors' layout: a flat configuration, and the projector inside the language model."""
    root, words, tensors = parts
    shutil.copytree(root / "language", out)
    theirs = {f"model.mm_projector{name}": tensors[f"multi_modal_projector.{hf}"] for name, hf in names.items()}
    config = TEXT | {"model_type": "llava", "vocab_size": words, "mm_vision_tower": "openai/clip", **fields}
    return save(out, config, load_file(root / "language" / "model.safetensors") | theirs)


def test_the_authors_own_repositories_become_whole(parts, tmp_path):
    root, _, tensors = parts
    two = {f".{n}.{kind}": f"linear_{k}.{kind}" for k, n in ((1, 0), (2, 2)) for kind in ("weight", "bias")}
    source = authors(parts, tmp_path / "two", two, mm_vision_select_layer=-2, image_aspect_ratio="pad")
    with pytest.raises(ValueError, match="mm_vision_tower is a field of the authors'"):
        ib.from_pretrained(source)
    model, written = assembled(tmp_path / "out", root / "clip", source)
    for name in (f"multi_modal_projector.{hf}" for hf in two.values()):
        assert (written[name] == tensors[name]).all()
    assert model.config.image_aspect_ratio == "pad"
    one = {".weight": "linear_1.weight", ".bias": "linear_1.bias"}
    source = authors(parts, tmp_path / "one", one, mm_vision_select_feature="cls_patch")
    model, written = assembled(tmp_path / "out1", root / "clip", source)
    assert (model.config.projector_act, model.config.class_token) == ("linear", True)
    assert np.array_equal(written["multi_modal_projector.linear_2.weight"], np.eye(36))
    assert not written["multi_modal_projector.linear_2.bias"].any()
    three = two | {".4.weight": "linear_2.weight", ".4.bias": "linear_2.bias"}
    source = authors(parts, tmp_path / "three", three)
    with pytest.raises(ValueError, match=r"its projector is .*a linear one and mlp2x_gelu are supported"):
        families.assemble(tmp_path / "out2", "llava", {"vision": root / "clip", "language": source})


def test_parts_of_another_kind_are_named(parts, tmp_path):
    root, _, _ = parts
    for vision, language, words in (
        ("language", "language", "model_type is 'llama'; a tower must be clip"),
        ("clip", "clip", "model_type is 'clip', and the files have no model.mm_projector"),
    ):
        with pytest.raises(ValueError, match=words):
            families.assemble(tmp_path / "out", "llava", {"vision": root / vision, "language": root / language})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"vision_feature_layer": [-2, -1]},
            r"vision_feature_layer is \[-2, -1\]; it is one layer of the tower, 1 to 3",
        ),
        ({"vision_feature_layer": -4}, "vision_feature_layer is -4"),
        (
            {"vision_feature_select_strategy": "cls"},
            "vision_feature_select_strategy is 'cls'; expected one of default, full",
        ),
        ({"projector_hidden_act": "swish"}, "projector_hidden_act is 'swish'; expected one of linear, gelu"),
        ({"text_config": {"model_type": "mistral"}}, "text_config.model_type is 'mistral'; only llama"),
        ({"text_config": [1]}, "text_config is not an object"),
        ({"image_token_index": 31999}, "image_token_index is 31999, and text_config.vocab_size 192 gives it no row"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias is false"),
        ({"vision_config": VISION | {"image_size": 43}}, "vision_config.image_size 43 is not a multiple of patch_size"),
        ({"vision_config": VISION | {"num_attention_heads": 7}}, "vision_config.hidden_size 40 is not a multiple"),
        ({"conversation_template": "v9"}, "conversation_template is 'v9'; expected one of v1, v0, plain"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_line_with_file_and_field(parts, tmp_path, changes, words):
    root, _, _ = parts
    raw = json.loads((root / "whole" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | changes))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.json")) + ": " + words) as error:
        families.read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_options_and_sets_that_are_not_there_are_named_with_those_that_are(parts):
    whole = parts[0] / "whole"
    for options, words in (
        ({"conversation": "v2"}, "conversation is 'v2'; expected one of v1, v0, plain"),
        ({"image_aspect_ratio": "fit"}, "image_aspect_ratio is 'fit'; expected one of square, pad"),
        ({"instruct_qformer": True}, "instruct_qformer: this system has the options image_size, conversation"),
        ({"trainable": "qformer"}, "trainable set 'qformer' is unknown; expected one of projector, projector_and_llm"),
    ):
        with pytest.raises(ValueError, match=words):
            ib.from_pretrained(whole, **options)


def test_an_exported_model_remembers_its_options(parts, tmp_path):
    whole = parts[0] / "whole"
    shutil.copy(parts[0] / "clip" / "preprocessor_config.json", whole)
    model = ib.from_pretrained(whole, conversation="v0", image_aspect_ratio="pad", image_size=56, dtype="float32")
    model.save_pretrained(tmp_path / "out")
    again = ib.from_pretrained(tmp_path / "out", dtype="float32")
    processor = ib.Processor.from_pretrained(tmp_path / "out")
    assert (again.config.conversation, again.config.image_aspect_ratio) == ("v0", "pad")
    assert (again.config.vision.image_size, processor.image.height, processor.image.pad) == (56, 56, True)
    batch = processor([np.zeros((30, 50, 3), np.uint8)], ["which digit is red ?"])
    np.testing.assert_allclose(again(batch), model(batch), atol=1e-6)
