"""Pictures of another size than the checkpoint's: position embeddings, processor, logits, what is written, the plan."""

import dataclasses
import json

import checkpoints
import numpy as np
import pytest
import toys
from PIL import Image
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert.positions import resize, resized
from instructblip_jax.recipes.instructblip import paper
from instructblip_jax.run.config import resolve

TENSOR = "vision_model.embeddings.position_embedding"
LARGER = 40  # the toys' pictures have 24 pixels in patches of 8: a grid of 3 becomes one of 5


def table(grid: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, grid**2 + 1, width)).astype(np.float32)


def test_a_small_table_by_hand():
    """Cells 0, 1, 2, 3, two a side, made three a side.

    The first new cell's centre is 1/6 before the first old one's and 7/6 before the second's: of this it takes
    -3/4 (343/216 - 5 * 49/36 + 8 * 7/6 - 4), and all other taps fall on the first cell or beyond the border.
    """
    axis = np.array([-25 / 288, 1 / 2, 313 / 288])
    want = 2 * axis[:, None] + axis
    stored = np.array([9.0, 0, 1, 2, 3], np.float32).reshape(1, 5, 1)
    got = resized(2, 3).read(stored)
    assert (got.dtype, got.shape) == (np.float32, (10, 1))
    assert got[0, 0] == 9  # the class has no place
    np.testing.assert_allclose(got[1:, 0].reshape(3, 3), want, rtol=1e-6)
    assert resized(2, 3).full_shape(got.shape) == stored.shape
    np.testing.assert_array_equal(resized(2, 3).save(got), got[None])  # saved in the size that is used
    with pytest.raises(ValueError, match=r"is \[1, 5, 1\]; .* asks for \[1, 17, width\]"):
        resized(4, 3).read(stored)


@pytest.mark.parametrize(("old", "new"), [(3, 5), (16, 26), (4, 7), (5, 2), (16, 35), (1, 3)])
def test_any_table_is_resized_as_torch_does(old, new):
    pytest.importorskip("torch")
    from reference import torch

    positions = table(old, 11, seed=old)
    cells = torch.from_numpy(positions[:, 1:]).reshape(1, old, old, 11).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(cells, size=(new, new), mode="bicubic", align_corners=False)
    got = resize(positions[0], new)
    np.testing.assert_array_equal(got[:1], positions[0, :1])
    assert np.abs(got[1:] - want.permute(0, 2, 3, 1).reshape(new**2, 11).numpy()).max() < 1e-5


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return toys.write_model(tmp_path_factory.mktemp("model"), seed=7)


def batch_of(directory, image_size: int = LARGER) -> dict[str, np.ndarray]:
    raw = json.loads((directory / "config.json").read_text())
    raw["vision_config"] = {**raw["vision_config"], "image_size": image_size}
    return checkpoints.batch(raw, seed=3)


@pytest.mark.parametrize("image_size", [LARGER, 16])
def test_tokens_and_logits_are_the_references(directory, image_size):
    pytest.importorskip("torch")
    import reference

    batch, theirs = batch_of(directory, image_size), reference.load(directory)
    want = reference.answers(theirs, reference.inputs(theirs, batch), interpolate_pos_encoding=True)
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32", image_size=image_size)
    tokens = np.asarray(model.encode(batch)["image"])
    assert tokens.shape[1] == (image_size // 8) ** 2 + 1
    assert np.abs(tokens - want["vision"]).max() < 1e-5
    assert np.abs(np.asarray(model(batch)) - want["logits"]).max() < 1e-5


@pytest.mark.parametrize("trainable", ["qformer", "vision"])
def test_what_is_written_is_a_model_of_that_size(directory, tmp_path, trainable):
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32", trainable=trainable, image_size=LARGER)
    model.save_pretrained(tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["vision_config"]["image_size"] == LARGER
    changed = json.loads((directory / "config.json").read_text())
    changed["vision_config"]["image_size"] = LARGER
    assert raw == changed
    again = ib.InstructBlip.from_pretrained(tmp_path / "out", dtype="float32", trainable=trainable)
    batch = batch_of(directory)
    got = np.asarray(model(batch))
    np.testing.assert_array_equal(np.asarray(again(batch)), got)
    assert ib.Processor.from_pretrained(tmp_path / "out").image.height == LARGER
    before, after = load_file(directory / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {TENSOR}
    pytest.importorskip("torch")
    import reference

    theirs = reference.load(tmp_path / "out")  # fails for a missing or mis-shaped key
    assert np.abs(got - reference.answers(theirs, reference.inputs(theirs, batch))["logits"]).max() < 1e-5


def test_a_table_stored_in_half_precision_is_resized_and_written_in_float32(directory, tmp_path):
    half = tmp_path / "half"
    toys.write_model(half, seed=7)
    tensors = load_file(half / "model.safetensors")
    tensors[TENSOR] = tensors[TENSOR].astype(np.float16)
    save_file(tensors, half / "model.safetensors")
    model = ib.InstructBlip.from_pretrained(half, dtype="float32", image_size=LARGER)
    model.save_pretrained(tmp_path / "out")
    want = resize(tensors[TENSOR][0], 5)
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "model.safetensors")[TENSOR], want[None])
    np.testing.assert_array_equal(np.asarray(model.frozen["vit/position"]), want)


def test_the_processor_resizes_to_that_size(directory):
    processor = ib.Processor.from_pretrained(directory, image_size=LARGER)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 3), np.uint8))
    pixels = processor(picture, "how many ?")["pixel_values"]
    assert pixels.shape == (1, LARGER, LARGER, 3)
    usual = ib.Processor.from_pretrained(directory).image
    want = np.asarray(picture.resize((LARGER, LARGER), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(pixels[0], (want - usual.mean) / usual.std, atol=1e-5)
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32", image_size=LARGER)
    assert ib.generate_ids(model, processor(picture, "how many ?"), max_new_tokens=2).shape == (1, 2)


def test_a_table_that_trains_is_written_as_it_was_trained(directory, tmp_path):
    model = ib.from_pretrained(directory, dtype="float32", trainable="vision", image_size=LARGER)
    loss, grads = ib.gradients(model, batch_of(directory))
    assert np.isfinite(float(loss))
    assert grads[TENSOR].shape == (1, 26, 24)
    assert np.abs(grads[TENSOR]).max() > 0
    model.train = {**model.train, "vit/position": model.train["vit/position"] + 0.5}
    model.save_pretrained(tmp_path / "out")
    want = resize(load_file(directory / "model.safetensors")[TENSOR][0], 5) + np.float32(0.5)
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "model.safetensors")[TENSOR], want[None])
    again = ib.from_pretrained(tmp_path / "out", dtype="float32", trainable="vision")
    assert checkpoints.leaves_equal(checkpoints.host(again.train), checkpoints.host(model.train))


def test_impossible_sizes_are_named_with_the_nearest_possible_ones(directory):
    for size, near in ((41, "take 40 or 48"), (5, "take 8 or 16"), (-8, "take 8 or 16")):
        with pytest.raises(ValueError, match=f"image_size {size} .*patch size 8.*{near}"):
            ib.InstructBlip.from_pretrained(directory, image_size=size)
        with pytest.raises(ValueError, match=f"image_size {size} .*patch"):
            ib.Processor.from_pretrained(directory, image_size=size)


def test_the_checkpoints_own_size_changes_nothing(directory):
    batch = batch_of(directory, 24)
    own, given = (ib.InstructBlip.from_pretrained(directory, dtype="float32", image_size=n) for n in (0, 24))
    np.testing.assert_array_equal(np.asarray(own(batch)), np.asarray(given(batch)))
    assert own.config == given.config


def test_a_table_that_is_not_what_the_configuration_says_is_not_resized(directory, tmp_path):
    toys.write_model(tmp_path, seed=7)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[TENSOR] = table(4, 24)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"mis-shaped  {TENSOR}"):
        ib.InstructBlip.from_pretrained(tmp_path, image_size=LARGER)
    config = families.read_config(tmp_path).configured(image_size=LARGER)
    with pytest.raises(ValueError, match=rf"{tmp_path}: {TENSOR} is \[1, 17, 24\]"):
        families.export(tmp_path / "out", tmp_path, config, {})
    assert not (tmp_path / "out").exists()


def test_a_plan_is_of_the_runs_size():
    from instructblip_jax.commands import plan

    config = paper("Salesforce/instructblip-flan-t5-xl", 192, {"": {"image_size": 364}}, "")
    run = resolve(config)
    timed, longest = plan.settings(run, (64, 64))
    assert timed.model.vision.image_size == longest.model.vision.image_size == 364
    with pytest.raises(ValueError, match=r"image_size 365 .* 14; take 364 or 378"):
        plan.settings(dataclasses.replace(run, image_size=365), (64, 64))
