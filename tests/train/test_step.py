"""The train step on one device: what it changes, what it leaves alone, what its dropout depends on."""

import checkpoints
import jax
import numpy as np
import pytest
import training
from jaxprs import equations

from instructblip_jax.mesh import put_batch
from instructblip_jax.models.bridges.qformer import DROPOUTS


@pytest.fixture(scope="module")
def raw():
    return training.config_json()


@pytest.fixture(scope="module")
def model(raw, tmp_path_factory):
    return training.load(checkpoints.write(tmp_path_factory.mktemp("model"), raw, seed=21))


@pytest.fixture(scope="module")
def batch(model, raw):
    return put_batch(model.mesh, checkpoints.batch(raw, rows=4, seed=21))


@pytest.fixture(scope="module")
def step(model):
    return training.start(model)[1]


@pytest.fixture
def state(model):
    return training.start(model)[0]


@pytest.fixture(scope="module")
def run(model, batch, step):
    """Twenty steps on one batch: frozen parameters before and after, the states at both ends, the losses."""
    state, _ = training.start(model)
    first, frozen, losses = checkpoints.host(state), checkpoints.host(model.frozen), []
    for _ in range(20):
        state, metrics = step(state, model.frozen, batch)
        losses.append(float(metrics["loss"]))
    return {"frozen": frozen, "first": first, "last": state, "losses": losses}


def test_frozen_arrays_are_bit_identical_after_training(run, model):
    assert len(model.frozen) > 40
    assert checkpoints.leaves_equal(checkpoints.host(model.frozen), run["frozen"])


def test_everything_that_trains_has_moved(run):
    """All but biases and norms of the last layer's text feed-forward: unread, and without decay."""
    still = set()
    for path, x in run["last"]["train"].items():
        first = run["first"]["train"][path]
        if not path.startswith(("qformer/layers", "qformer/cross_attention")):
            x, first = x[None], first[None]
        for n in range(len(first)):
            if np.array_equal(x[n], first[n]):
                still.add((path, n))
    names = ("up/bias", "down/bias", "norm/scale", "norm/bias")
    assert still == {(f"qformer/layers/text_ffn/{name}", 1) for name in names}


def test_the_optimizer_holds_two_moments_of_what_trains_and_nothing_else(run, model):
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(run["last"]["opt"]):
        sizes.setdefault(jax.tree_util.keystr(path[-1:]).strip("[]'"), []).append(leaf.shape)
    counters = {name for name, shapes in sizes.items() if set(shapes) == {()}}
    assert counters <= {".count"}
    moments = {name: shapes for name, shapes in sizes.items() if name not in counters}
    assert moments == {path: [x.shape] * 2 for path, x in model.train.items()}
    assert not moments.keys() & model.frozen.keys()


def test_the_state_is_donated_and_the_frozen_part_is_not(model, batch, step, state):
    step(state, model.frozen, batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(state["train"]))
    assert not any(x.is_deleted() for x in model.frozen.values())


def test_the_same_step_twice_is_the_same_and_dropout_changes_from_step_to_step(model, batch, step, state):
    first, again, later = (training.start(model)[0] for _ in range(3))
    later["step"] = later["step"] + 1
    (first, a), (again, b), (_, c) = (step(s, model.frozen, batch) for s in (first, again, later))
    assert checkpoints.leaves_equal(first["train"], again["train"])
    assert float(a["loss"]) == float(b["loss"])
    assert abs(float(a["loss"]) - float(c["loss"])) > 1e-4


@pytest.mark.parametrize("spoiled", ["pixels", "weights"])
def test_a_step_that_is_not_finite_changes_no_parameter_and_no_moment(spoiled, model, batch, step, state):
    state, _ = step(state, model.frozen, batch)
    before = checkpoints.host(state)
    frozen, bad = model.frozen, dict(batch)
    if spoiled == "pixels":
        bad["pixel_values"] = batch["pixel_values"].at[1, 0, 0, 0].set(np.nan)
    else:  # logits overflow
        frozen = frozen | {"llm/head/kernel": frozen["llm/head/kernel"] * 1e38}
    state, metrics = step(state, frozen, bad)
    assert not np.isfinite(float(metrics["loss"])) or not np.isfinite(float(metrics["grad_norm"]))
    assert checkpoints.leaves_equal(checkpoints.host(state["train"]), before["train"])
    after, moments = (jax.tree.leaves(x) for x in (state["opt"], before["opt"]))
    assert all(np.array_equal(a, b) for a, b in zip(after, moments, strict=True))
    state, metrics = step(state, model.frozen, batch)  # and training can go on
    assert np.isfinite(float(metrics["loss"]))


def test_a_step_on_a_cpu_is_less_optimized_unless_the_user_names_a_level(model, monkeypatch):
    assert model.step_options is None  # the tests' own flags name one
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    assert model.step_options == {"xla_backend_optimization_level": "1"}


def test_dropout_masks_are_drawn_once_a_kind_and_no_layer_is_in_a_loop(model, batch, step, state):
    """One call of the generator for the embedding, and one a kind of dropout for all layers."""
    with jax.set_mesh(model.mesh):
        found = list(equations(jax.make_jaxpr(step)(state, model.frozen, batch)))
    names = [equation.primitive.name for equation in found]
    assert names.count("random_bits") == 1 + len(DROPOUTS)
    assert names.count("scan") == 1 + len(DROPOUTS)


def test_a_batch_without_any_label_has_no_loss_and_no_gradient(model, batch, step, state):
    nothing = dict(batch, labels=batch["labels"] * 0 - 100)
    _, metrics = step(state, model.frozen, nothing)
    assert (float(metrics["loss"]), float(metrics["tokens"]), float(metrics["grad_norm"])) == (0.0, 0.0, 0.0)


def test_masters_and_moments_are_float32_when_computing_in_bfloat16(model, batch):
    half = training.load(model.directory, dtype="bfloat16")
    state, step = training.start(half)
    assert {x.dtype.name for x in half.frozen.values()} == {"bfloat16"}
    state, metrics = jax.eval_shape(step, state, half.frozen, batch)
    assert {x.dtype.name for x in state["train"].values()} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(state["opt"]) if x.ndim} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(metrics) if x is not None} == {"float32", "int32"}
    assert {name for name, x in metrics.items() if getattr(x, "dtype", None) == "int32"} == {
        "skipped",
        "skipped_in_row",
    }
