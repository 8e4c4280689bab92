"""A loss of several terms and a state that is not trained: exact over micro-batches and over eight devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructblip_jax.mesh import make_mesh, put_batch
from instructblip_jax.objectives.term import Term
from instructblip_jax.train.gradients import term_gradients
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

ROWS = 16
WEIGHTS = {"far": 0.25, "near": 3.0}


class TwoTerms:
    """Terms that count different things in every row; its memory adds up what it has seen."""

    def __init__(self, weight, offset):
        self.weight, self.offset = weight, offset

    def loss(self, batch, *, memory, step, key=None):
        reach = batch["x"] @ self.weight + self.offset
        far = Term(batch["many"] * reach**2, batch["many"], WEIGHTS["far"])
        near = Term(batch["few"] * jnp.abs(reach - memory["seen"]), batch["few"], WEIGHTS["near"])
        return {"far": far, "near": near}, {"seen": memory["seen"] + 0.0 * reach.sum(), "rows": memory["rows"] + ROWS}


def merge(train, frozen):
    return TwoTerms(train["weight"], frozen["offset"])


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    few = rng.integers(0, 2, ROWS).astype(np.float32)
    few[:4] = 0  # a micro-batch may hold none of what a term counts
    return {
        "x": rng.normal(size=(ROWS, 3)).astype(np.float32),
        "many": rng.integers(1, 40, ROWS).astype(np.float32),
        "few": few,
        "set": rng.integers(0, 2, ROWS).astype(np.int32),
    }


TRAIN, FROZEN = {"weight": jnp.array([1.0, -2.0, 0.5])}, {"offset": jnp.float32(0.25)}


def wanted(batch, memory):
    """The loss as it is defined, in one piece."""

    def loss(train):
        terms, _ = merge(train, FROZEN).loss(batch, memory=memory, step=0)
        return sum(WEIGHTS[name] * term.sums.sum() / term.counts.sum() for name, term in terms.items())

    return jax.value_and_grad(loss)(TRAIN)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_term_is_a_mean_over_the_whole_batch(batch, parts, devices):
    memory = {"seen": jnp.float32(0.5), "rows": jnp.int32(0)}
    want, want_grads = wanted(batch, memory)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1]) if devices == 1 else make_mesh(data=2, fsdp=2, tensor=2)
    run = jax.jit(lambda batch: term_gradients(merge, TRAIN, FROZEN, batch, None, parts, 2, memory=memory))
    with jax.set_mesh(mesh):
        loss, sums, grads, after = run(put_batch(mesh, batch))
    assert float(loss) == pytest.approx(float(want), rel=1e-6)
    np.testing.assert_allclose(grads["weight"], want_grads["weight"], rtol=1e-5)
    assert int(after["rows"]) == ROWS * parts  # each micro-batch goes through the memory, one after another
    own = [batch["set"] == n for n in range(2)]
    assert sums["set_counts"]["far"].tolist() == [batch["many"][rows].sum() for rows in own]
    assert sums["set_counts"]["near"].tolist() == [batch["few"][rows].sum() for rows in own]
    assert sums["set_rows"].tolist() == [rows.sum() for rows in own]
    assert float(sums["tokens"]) == batch["many"].sum()
    total = sum(WEIGHTS[name] * float(mean) for name, mean in sums["terms"].items())
    assert total == pytest.approx(float(want), rel=1e-6)


def test_a_term_that_nothing_counts_adds_nothing(batch):
    bare = batch | {"few": np.zeros(ROWS, np.float32)}
    memory = {"seen": jnp.float32(0), "rows": jnp.int32(0)}
    loss, sums, grads, _ = jax.jit(partial(term_gradients, merge, TRAIN, FROZEN, key=None, count=2, memory=memory))(
        batch=bare
    )
    assert float(sums["terms"]["near"]) == 0.0
    assert float(loss) == pytest.approx(WEIGHTS["far"] * float(sums["terms"]["far"]), rel=1e-6)
    assert np.isfinite(grads["weight"]).all()


def test_memory_moves_with_the_steps_that_are_taken_and_no_other(batch):
    tx = optimizer(OptimConfig(warmup_steps=0), 10)
    step = make_step(merge, tx, seed=0)
    train = jax.tree.map(jnp.copy, TRAIN)
    state = init_state(train, tx, 2, memory={"seen": jnp.float32(0), "rows": jnp.int32(0)})
    state, _ = step(state, FROZEN, batch)
    assert int(state["memory"]["rows"]) == ROWS
    state, metrics = step(state, FROZEN, batch | {"x": batch["x"] * np.nan})
    assert not np.isfinite(float(metrics["loss"]))
    assert int(state["memory"]["rows"]) == ROWS
