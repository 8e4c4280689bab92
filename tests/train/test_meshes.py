"""One device or eight, one part or several: the same training."""

import checkpoints
import jax
import numpy as np
import pytest
import training

from instructblip_jax.mesh import make_mesh, put_batch
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.build import merge

STEPS = 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("model"), training.config_json(), seed=41)


def train(directory, mesh, layout=SHARDED):
    """Twenty steps on batches of eight rows with dropout."""
    model = training.load(directory, mesh, layout=layout)
    state, step = training.start(model)
    batches = [checkpoints.batch(training.config_json(), rows=8, seed=n) for n in range(4)]
    run = {"model": model, "first": jax.tree.map(lambda x: x.sharding, state), "losses": [], "norms": []}
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    with jax.set_mesh(mesh):
        for n in range(STEPS):
            if n == 1:
                compiled.clear()
            state, metrics = step(state, model.frozen, put_batch(mesh, batches[n % 4]))
            run["losses"].append(float(metrics["loss"]))
            run["norms"].append(float(metrics["grad_norm"]))
    return run | {"last": state, "compiled": [event for event in compiled if "backend_compile" in event]}


@pytest.fixture(scope="module")
def one(directory):
    return train(directory, make_mesh(1, 1, 1, devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def eight(directory):
    return train(directory, make_mesh(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    "layout",
    [
        # Those of `sharding.LAYOUTS` that neither `eight` nor `zero` uses.
        pytest.param(Layout(trained="fsdp", vit="tensor", llm="tensor"), marks=pytest.mark.long),
        pytest.param(Layout(trained="replicated", vit="fsdp", llm="tensor"), marks=pytest.mark.long),
    ],
)
def test_the_layout_changes_nothing_but_rounding(directory, one, layout):
    assert_the_same(train(directory, make_mesh(data=2, fsdp=2, tensor=2), layout), one)


def assert_the_same(run, one):
    np.testing.assert_allclose(run["losses"][:3], one["losses"][:3], rtol=1e-6)
    np.testing.assert_allclose(run["losses"], one["losses"], rtol=1e-5)
    assert not run["compiled"]


@pytest.fixture(scope="module")
def zero(directory):
    layout = Layout(trained="zero", vit="tensor", llm="sequence")
    return train(directory, make_mesh(data=2, fsdp=2, tensor=2), layout)


def test_zero_trains_the_same_and_keeps_a_share_of_every_master_and_moment(one, zero):
    assert_the_same(zero, one)
    whole = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(zero["last"]):
        name = getattr(path[-1], "key", None)
        if name in zero["model"].train:
            assert leaf.sharding.is_equivalent_to(zero["first"]["train"][name], leaf.ndim), path
            if leaf.addressable_shards[0].data.size * 8 != leaf.size:
                whole.append(name)
    assert {name for name in whole if any(n % 8 == 0 for n in zero["model"].train[name].shape[1:])} == set()
    assert len(whole) < len(zero["model"].train)


def test_one_device_and_eight_give_the_same_losses_and_weights(one, eight):
    assert len(set(one["losses"])) == STEPS
    # Additions in another order, carried on by Adam's division: 1e-7 at first, some 1e-6 at the end.
    np.testing.assert_allclose(eight["losses"][:3], one["losses"][:3], rtol=1e-6)
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(eight["norms"], one["norms"], rtol=1e-4)
    for path, want in one["last"]["train"].items():
        if not path.endswith("attn/k/bias"):  # zero gradient in truth: Adam makes steps of its rounding
            assert np.abs(np.asarray(eight["last"]["train"][path]) - np.asarray(want)).max() < 2e-4, path


def test_parameters_and_moments_stay_where_they_were_put(eight):
    split = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(eight["last"]):
        name = getattr(path[-1], "key", None)
        if name in eight["model"].train:
            assert leaf.sharding.is_equivalent_to(eight["first"]["train"][name], leaf.ndim), path
            split += not leaf.sharding.is_fully_replicated
    assert split > 3 * 30  # the parameters and both their moments
    same = jax.tree.map(lambda x, first: x.sharding.is_equivalent_to(first, x.ndim), eight["last"], eight["first"])
    assert all(jax.tree.leaves(same))


def test_one_batch_shape_is_compiled_once(one, eight):
    assert not one["compiled"]
    assert not eight["compiled"]


def test_a_batch_that_the_devices_do_not_divide_is_answered_the_same(directory):
    batch = checkpoints.batch(training.config_json(), rows=3)
    want = np.asarray(training.load(directory)(batch))
    got = training.load(directory, make_mesh(data=2, fsdp=2, tensor=2))(batch)
    np.testing.assert_allclose(np.asarray(got), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (2, 2, 4)])
def test_a_mesh_that_does_not_divide_the_devices_is_refused(sizes):
    with pytest.raises(ValueError, match="mesh"):
        make_mesh(*sizes)


def test_minus_one_is_the_rest():
    assert dict(make_mesh(data=-1, fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}


@pytest.fixture(scope="module")
def without_dropout(tmp_path_factory):
    raw = training.config_json(dropout=0.0)
    return training.load(checkpoints.write(tmp_path_factory.mktemp("model"), raw, seed=42)), raw


def test_the_key_changes_nothing_where_no_dropout_is_asked_for(without_dropout):
    """Frozen parts have dropout rates in their config.json too; they are never used."""
    model, raw = without_dropout

    @jax.jit
    def loss(key):
        terms, _ = merge(model.graph, model.train, model.frozen).loss(batch, memory={}, step=0, key=key)
        return terms["lm"].sums.sum()

    batch = checkpoints.batch(raw, rows=3)
    assert float(loss(jax.random.key(1))) == float(loss(jax.random.key(2)))
