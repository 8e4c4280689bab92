"""Steps with a batch of each group: the loss is the weighted sum of the groups', exactly, on any mesh."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructblip_jax.mesh import make_mesh, put_batch
from instructblip_jax.objectives.term import Term
from instructblip_jax.train import groups
from instructblip_jax.train.gradients import grouped_gradients, term_gradients
from instructblip_jax.train.meter import Meter
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step
from instructblip_jax.train.window import Window

WEIGHTS = {"documents": 1.0, "pairs": 0.2, "video": 0.03}
ROWS = {"documents": 8, "pairs": 16, "video": 8}
LENGTHS = {"documents": 7, "pairs": 3, "video": 5}
TRAIN, FROZEN = {"table": jnp.linspace(-1, 1, 6 * 6).reshape(6, 6)}, {"offset": jnp.arange(6.0) / 7}


class Bigrams:
    """The likelihood of each token after the one before it: Flamingo's loss, of a model of one table."""

    def __init__(self, table, offset):
        self.table, self.offset = table, offset

    def loss(self, batch, *, memory, step, key=None):
        scores = jax.nn.log_softmax(self.table[batch["ids"][:, :-1]] + self.offset)
        found = -jnp.take_along_axis(scores, batch["ids"][:, 1:, None], axis=-1)[..., 0]
        counted = batch["counted"][:, 1:]
        return {"lm": Term((found * counted).sum(1), counted.sum(1))}, memory


def merge(train, frozen):
    return Bigrams(train["table"], frozen["offset"])


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(5)
    return {
        name: {
            "ids": rng.integers(0, 6, (rows, LENGTHS[name])).astype(np.int32),
            "counted": rng.integers(0, 2, (rows, LENGTHS[name])).astype(np.float32),
            "set": np.full(rows, number, np.int32),
        }
        for number, (name, rows) in enumerate(ROWS.items())
    }


def by_hand(batches):
    """Loss and gradients as Flamingo defines them: the sum over the groups of weight times mean likelihood."""

    def loss(train):
        total = 0.0
        for name, batch in batches.items():
            (term,) = merge(train, FROZEN).loss(batch, memory={}, step=0)[0].values()
            total += WEIGHTS[name] * term.sums.sum() / term.counts.sum()
        return total

    return jax.value_and_grad(loss)(TRAIN)


def test_a_batch_of_batches_and_back(batches):
    flat = groups.joined(batches)
    assert set(flat) == {f"{name}/{key}" for name in ROWS for key in ("ids", "counted", "set")}
    assert groups.parted(flat) == batches
    assert groups.parted(batches["pairs"]) == {"": batches["pairs"]}
    assert groups.rows({name: x.shape for name, x in flat.items()}) == 32
    assert groups.rows({"ids": (16, 3)}) == 16


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (8, 1), (8, 2)])
def test_the_loss_is_the_sum_of_the_groups_by_their_weights(batches, devices, parts):
    want, want_grads = by_hand(batches)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1]) if devices == 1 else make_mesh(data=2, fsdp=2, tensor=2)
    run = jax.jit(lambda batch: grouped_gradients(merge, TRAIN, FROZEN, batch, None, parts, 3, groups=WEIGHTS))
    with jax.set_mesh(mesh):
        put = {name: put_batch(mesh, batch) for name, batch in batches.items()}
        loss, sums, grads, _ = run(groups.joined(put))
    assert float(loss) == pytest.approx(float(want), rel=1e-6)
    np.testing.assert_allclose(grads["table"], want_grads["table"], rtol=1e-5, atol=1e-7)
    counts = {name: batch["counted"][:, 1:].sum() for name, batch in batches.items()}
    assert {name: float(n) for name, n in sums["counts"].items()} == {f"{name}/lm": n for name, n in counts.items()}
    assert float(sums["tokens"]) == sum(counts.values())
    assert sums["set_rows"].tolist() == list(ROWS.values())
    for number, name in enumerate(ROWS):  # the means of each group and set are its own, without the weight
        alone, *_ = term_gradients(merge, TRAIN, FROZEN, batches[name], None, 1)
        mean = float(sums["set_totals"][f"{name}/lm"][number] / counts[name])
        assert float(sums["terms"][f"{name}/lm"]) == pytest.approx(float(alone), rel=1e-6)
        assert mean == pytest.approx(float(alone), rel=1e-6)


def test_one_group_of_weight_one_is_a_step_without_groups(batches):
    """To the bit."""
    one = groups.joined({"documents": batches["documents"]})
    loss, _, grads, _ = jax.jit(
        partial(grouped_gradients, merge, TRAIN, FROZEN, key=None, count=1, groups={"documents": 1.0})
    )(batch=one)
    want, _, want_grads, _ = jax.jit(partial(term_gradients, merge, TRAIN, FROZEN, key=None, count=1))(
        batch=batches["documents"]
    )
    assert float(loss) == float(want)
    np.testing.assert_array_equal(grads["table"], want_grads["table"])


def test_a_step_and_what_is_logged_of_it(batches):
    tx = optimizer(OptimConfig(warmup_steps=0), 10)
    step = make_step(merge, tx, seed=0, groups=WEIGHTS)
    state = init_state(jax.tree.map(jnp.copy, TRAIN), tx, 3)
    window, flat = Window(tuple(ROWS)), groups.joined(batches)
    losses = []
    for _ in range(3):
        state, metrics = step(state, FROZEN, flat)
        window.add(jax.device_get(metrics))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(float(by_hand(batches)[0]), rel=1e-6)
    assert losses[2] < losses[0]
    entry = window.entry()
    assert entry["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert entry["samples"] == {name: 3 * rows for name, rows in ROWS.items()}
    assert entry["terms"].keys() == {f"{name}/lm" for name in ROWS}
    for name in ROWS:
        assert entry["losses"][name] == pytest.approx(entry["terms"][f"{name}/lm"], rel=1e-6)
    with Meter(flops_per_batch=lambda shapes: 1.0, peak_flops=1.0) as meter:
        meter.add(jax.device_get(metrics), {name: x.shape for name, x in flat.items()})
        assert meter.recent.samples == sum(ROWS.values())


def test_a_step_of_groups_is_skipped_as_a_whole(batches):
    tx = optimizer(OptimConfig(warmup_steps=0), 10)
    step = make_step(merge, tx, seed=0, groups=WEIGHTS)
    state = init_state(jax.tree.map(jnp.copy, TRAIN), tx, 3)
    broken = batches | {"video": batches["video"] | {"counted": batches["video"]["counted"] * np.nan}}
    after, _ = step(state, FROZEN, groups.joined(broken))
    np.testing.assert_array_equal(after["train"]["table"], TRAIN["table"])
