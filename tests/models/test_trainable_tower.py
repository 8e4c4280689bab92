"""The trainable set `vision`: gradients through the tower, what they keep, and the tower in what is written."""

import json
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import instructblip_jax as ib
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.files import read_json
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.systems.build import abstract, merge
from instructblip_jax.systems.instructblip import InstructBlipConfig

TOWER = ("query_tokens", "qformer.", "language_projection.", "vision_model.")
GRADIENT = 5e-5
"""Relative to the largest entry of each tensor's gradient."""
SIZES = checkpoints.MINI | {"vision_config": checkpoints.TINY["vision_config"]}
"""A tower of two blocks, and as little as there can be of the rest."""
CASES = {
    "t5": ({"kind": "instructblip"}, "layer"),
    "blip2-opt": ({"kind": "blip-2", "family": "opt", "num_hidden_layers": 1}, "none"),
    "video-llama": ({"kind": "instructblipvideo", "family": "llama", "num_hidden_layers": 1}, "dots"),
}
"""Model and what is kept for the backward pass, which must not change a gradient."""


def wrong(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> dict[str, float]:
    """The tensors whose gradients are further apart than they may be."""
    assert got.keys() == want.keys()
    floor = 1e-7 * max(np.abs(x).max() for x in want.values())  # a bias on all keys has none in truth
    errors = {name: np.abs(got[name] - x).max() / (np.abs(x).max() + floor / GRADIENT) for name, x in want.items()}
    return {name: error for name, error in errors.items() if not error < GRADIENT}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_every_tensor_of_the_tower_are_the_references(case, tmp_path):
    pytest.importorskip("torch")
    import reference

    kind, remat = CASES[case]
    raw = checkpoints.config_json(sizes=SIZES, **kind)
    directory = checkpoints.write(tmp_path, raw, seed=21)
    batch = checkpoints.batch(raw, rows=3, seed=21)
    theirs = reference.load(directory)
    want = reference.answers(theirs, reference.inputs(theirs, batch), TOWER)
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32", trainable="vision", remat=remat)
    value, grads = ib.gradients(model, batch)
    assert abs(float(value) / float(want["loss"]) - 1) < 1e-6
    of_tower = [name for name in grads if name.startswith("vision_model.")]
    assert len(of_tower) == 4 + 12 * model.config.vision.num_hidden_layers + 2
    assert not wrong(grads, {name[5:]: x for name, x in want.items() if name.startswith("grad/")})


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return toys.write_model(tmp_path_factory.mktemp("model"), seed=5)


def test_only_a_set_with_the_tower_lets_gradients_into_it(directory):
    config, sets = hf_instructblip.read_config(directory / "config.json"), InstructBlipConfig.trainable_sets
    assert {name for name, prefixes in sets.items() if config.trains_features(prefixes)} == {"vision"}
    assert set(sets["original"]) - set(sets["vision"]) == {"vit/post_norm"}  # which is under vit


def kept(path: Path, trainable: str, remat: str) -> int:
    """Bytes that the image tokens' backward pass is handed by the forward pass, parameters aside."""
    raw, config = read_json(path), hf_instructblip.read_config(path)
    mesh = single_device_mesh()
    graph, train, frozen = abstract(config, mesh=mesh, dtype="float32", trainable=trainable, remat=remat)
    pixels = jax.ShapeDtypeStruct(checkpoints.batch(raw, rows=64)["pixel_values"].shape, jnp.float32)

    def residuals(train, frozen, pixels):
        return jax.vjp(lambda train: merge(graph, train, frozen).encode({"pixel_values": pixels}), train)[1]

    leaves = jax.tree.leaves(jax.eval_shape(residuals, train, frozen, pixels))
    return sum(x.size * x.dtype.itemsize for x in leaves if 64 in x.shape or 64 * 10 in x.shape or 64 * 9 in x.shape)


def test_what_is_kept_of_the_tower_follows_remat_and_is_nothing_while_it_is_frozen(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(checkpoints.config_json()))
    layer, dots, none = (kept(path, "vision", remat) for remat in ("layer", "dots", "none"))
    tokens = 64 * 10 * 40 * 4  # rows, patches and class, width
    assert 2 * tokens <= layer < dots < none  # at least the input of both blocks
    frozen = {remat: kept(path, "original", remat) for remat in ("layer", "none")}
    assert frozen["layer"] == frozen["none"] < layer  # of the norm after it alone
    assert kept(path, "qformer", "none") == 0


def test_masters_are_float32_and_nothing_of_the_tower_is_frozen(directory):
    model = ib.InstructBlip.from_pretrained(directory, dtype="bfloat16", trainable="vision")
    tower = {path: x.dtype.name for path, x in model.train.items() if path.startswith("vit/")}
    assert len(tower) == 4 + 16 + 2
    assert set(tower.values()) == {"float32"}
    assert not [path for path in model.frozen if path.startswith("vit/")]
    pixels = {"pixel_values": np.zeros((1, 24, 24, 3), np.float32)}
    assert model.encode(pixels)["image"].dtype == jnp.bfloat16


def test_what_is_written_has_the_trained_tower(directory, tmp_path):
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32", trainable="vision")
    rng = np.random.default_rng(0)
    model.train = {path: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32) for path, x in model.train.items()}
    model.save_pretrained(tmp_path / "out")
    again = ib.InstructBlip.from_pretrained(tmp_path / "out", dtype="float32", trainable="vision")
    assert checkpoints.leaves_equal(checkpoints.host(again.train), checkpoints.host(model.train))
    raw = read_json(directory / "config.json")
    batch = checkpoints.batch(raw, seed=1)
    before = np.asarray(ib.InstructBlip.from_pretrained(directory, dtype="float32")(batch))
    got = np.asarray(again(batch))
    assert np.abs(got - before).max() > 1e-2
    pytest.importorskip("torch")
    import reference

    theirs = reference.load(tmp_path / "out")
    want = reference.answers(theirs, reference.inputs(theirs, batch))["logits"]
    assert np.abs(got - want).max() < 1e-5
