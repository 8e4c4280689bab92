"""Frozen assembled of a language model and a new tower, its processor, and what is wrong with its files."""

import json
import shutil
from functools import partial

import ingredients
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert.drafts import frozen as draft
from instructblip_jax.models.towers.nf_resnet import NfResNetConfig

SMALL = {"widths": (8, 12), "depths": (2, 1), "stem_width": 4, "image_size": 32}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return ingredients.write_plain_llama(tmp_path_factory.mktemp("parts") / "llama")


@pytest.fixture(scope="module")
def made(llama, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "frozen"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draft, "NfResNetConfig", partial(NfResNetConfig, **SMALL))
        families.assemble(out, "frozen", {"language": llama}, seed=3, queries=3)
    return out


def test_the_language_model_is_as_it_was_and_every_branch_is_closed(llama, made):
    tensors, was = load_file(made / "model.safetensors"), load_file(llama / "model.safetensors")
    for name, x in was.items():
        if name.endswith("inv_freq"):  # a buffer
            continue
        np.testing.assert_array_equal(tensors[f"language_model.{name}"], x)
    assert {float(x.max()) for name, x in tensors.items() if name.endswith("skip_gain")} == {0.0}
    assert {float(x.min()) for name, x in tensors.items() if name.endswith(".gain")} == {1.0}
    kernel = tensors["vision_model.blocks.0.0.conv1.weight"]
    assert kernel.std() == pytest.approx(np.prod(kernel.shape[1:]) ** -0.5, rel=0.35)


def test_the_token_of_pictures_has_no_row_and_is_never_written(made):
    model, processor = ib.from_pretrained(made, dtype="float32"), ib.Processor.from_pretrained(made)
    token = model.config.image_token_id
    assert token == model.config.vocab_size
    batch = processor([[Image.new("RGB", (30, 20))]], ["ab"], ["c"])
    ids = batch["input_ids"][0]
    assert ids[:4].tolist() == [token, token, token, processor.tokenizer.encode("ab")[0]]
    assert (batch["labels"][0] != -100).sum() == len(processor.response("c"))
    assert np.isfinite(np.asarray(model(batch))).all()
    assert np.isfinite(float(ib.loss(model, batch)[0]))
    grads = ib.gradients(model, batch)[1]
    assert {name.split(".")[0] for name in grads} == {"vision_model", "prefix"}


def test_a_document_is_learnt_but_for_its_pictures(made):
    processor = ib.Processor.from_pretrained(made)
    row = processor.document(["ab", 0, "c", 1])
    picture = row["input_ids"] == processor.config.image_token_id
    assert picture.sum() == 6
    learnt = row["labels"] != -100
    np.testing.assert_array_equal(learnt, ~picture)
    assert row["labels"][-1] == processor.end_id


def test_pictures_are_filled_up_with_black(made):
    processor = ib.Processor.from_pretrained(made)
    pixels = processor.image.pixels(Image.new("RGB", (40, 10), (255, 255, 255)))
    assert pixels.shape == (32, 32, 3)
    assert not pixels[:8].any()
    assert not pixels[-8:].any()
    assert pixels[16].min() == 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vision_config": {"model_type": "nf_resnet", "widths": [8], "depths": [1, 2]}},
            "there must be one of each per stage",
        ),
        ({"vision_config": {"model_type": "resnet"}}, r"vision_config\.model_type is 'resnet'"),
        ({"text_config": {"model_type": "t5"}}, r"text_config\.model_type is 't5'; it is one of llama, opt"),
        ({"image_token_id": None}, "image_token_id is None"),
    ],
)
def test_a_wrong_field_is_named(made, tmp_path, change, message):
    copy = shutil.copytree(made, tmp_path / "copy")
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as found:
        ib.from_pretrained(copy)
    assert str(path) in str(found.value)
