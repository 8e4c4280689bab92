"""What a step tells of the sets, and what it refuses, over a system of a single product."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructblip_jax.mesh import make_mesh, put_batch
from instructblip_jax.objectives.term import Term, mean
from instructblip_jax.train import guard
from instructblip_jax.train.optimizer import OptimConfig, optimizer, schedule
from instructblip_jax.train.step import init_state, make_step

ROWS, SETS, STEPS = 16, 3, 1000
OF_SETS = ("set_totals", "set_counts", "drawn")


class Product:
    """Each row's loss is the square of its product with the weight, times the row's number of tokens."""

    def __init__(self, weight):
        self.weight = weight

    def loss(self, batch, *, memory, step, key=None):
        return {"square": Term(batch["tokens"] * (batch["x"] @ self.weight) ** 2, batch["tokens"])}, memory


def start(parts: int = 1, spike_factor: float = 0.0):
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=3, accumulation=parts, spike_factor=spike_factor)
    tx = optimizer(optim, STEPS)
    merge = lambda train, frozen: Product(train["weight"])
    rate = schedule(optim, STEPS)
    step = make_step(merge, tx, seed=0, accumulation=parts, spike_factor=spike_factor, rate=rate)
    return init_state({"weight": jnp.array([1.0, -2.0, 0.5])}, tx, SETS), step


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(ROWS, 3)).astype(np.float32),
        "tokens": rng.integers(1, 9, ROWS).astype(np.float32),
        "set": np.array([2, 0, 2, 2] * 4, np.int32),  # none of set 1
    }


@pytest.mark.parametrize("parts", [1, 4])
def test_losses_tokens_and_draws_of_each_set(batch, parts):
    """Over eight devices."""
    state, step = start(parts)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    weight = np.array(state["train"]["weight"])
    with jax.set_mesh(mesh):
        state, first = step(state, {}, put_batch(mesh, batch))
        state, metrics = step(state, {}, put_batch(mesh, batch))
    losses = batch["tokens"] * (batch["x"] @ weight) ** 2
    want = [[losses[batch["set"] == n].sum(), batch["tokens"][batch["set"] == n].sum()] for n in range(SETS)]
    np.testing.assert_allclose(
        np.stack([first["set_totals"]["square"], first["set_counts"]["square"]], 1), want, rtol=1e-5
    )
    assert float(first["loss"]) == pytest.approx(losses.sum() / batch["tokens"].sum(), rel=1e-5)
    assert metrics["drawn"].tolist() == state["drawn"].tolist() == [8, 0, 24]
    assert all(x.is_fully_replicated for x in jax.tree.leaves([metrics[name] for name in OF_SETS]))


def test_accumulation_weighs_every_token_the_same(batch):
    """Parts of unequal token counts: a mean of the parts' means would be another number, and another gradient."""
    assert len({batch["tokens"][n::4].sum() for n in range(4)}) > 2
    (whole, wanted), (parts, metrics) = (step(state, {}, batch) for state, step in (start(1), start(4)))
    for name in ("loss", "tokens", "grad_norm"):
        assert float(metrics[name]) == pytest.approx(float(wanted[name]), rel=1e-5), name
    means = [
        float(start()[1](start()[0], {}, {name: x[n::4] for name, x in batch.items()})[1]["loss"]) for n in range(4)
    ]
    assert float(metrics["loss"]) != pytest.approx(np.mean(means), rel=1e-2)
    first, second = (jax.tree.leaves(state["opt"]) for state in (whole, parts))
    for one, other in zip(first, second, strict=True):  # the moments, which are the gradient's
        np.testing.assert_allclose(one, other, rtol=1e-4)


class Noisy(Product):
    """A dropout of its own: the key moves the product."""

    def loss(self, batch, *, memory, step, key=None):
        moved = self.weight + jax.random.normal(key, self.weight.shape)
        return Product(moved).loss(batch, memory=memory, step=step)


def test_a_step_gives_the_gradient_of_its_mean_loss_to_the_optimizer(batch):
    """With the randomness of the seed and the step's number."""
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=0, clip_norm=2.0)
    tx = optimizer(optim, STEPS)
    step = make_step(lambda train, frozen: Noisy(train["weight"] + frozen["weight"]), tx, seed=5)
    train, frozen = {"weight": jnp.array([1.0, -2.0, 0.5])}, {"weight": jnp.array([0.5, 0.5, 0.25])}
    state, opt = init_state(jax.tree.map(jnp.copy, train), tx, SETS), tx.init(train)

    def loss(train, key):
        terms, _ = Noisy(train["weight"] + frozen["weight"]).loss(batch, memory={}, step=0, key=key)
        return mean(terms)

    for n in range(3):
        want, grads = jax.value_and_grad(loss)(train, jax.random.fold_in(jax.random.key(5), n))
        updates, opt = tx.update(grads, opt, train)
        train = optax.apply_updates(train, updates)
        state, metrics = step(state, frozen, batch)
        assert float(metrics["loss"]) == pytest.approx(float(want), rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(float(optax.global_norm(grads)), rel=1e-5)
        np.testing.assert_allclose(state["train"]["weight"], train["weight"], rtol=1e-5)


def test_sets_change_nothing_that_is_learned(batch):
    state, step = start()
    bare = {name: x for name, x in batch.items() if name != "set"}
    (one, with_sets), (other, without) = step(state, {}, batch), step(start()[0], {}, bare)
    assert np.array_equal(one["train"]["weight"], other["train"]["weight"])
    assert without.keys() == with_sets.keys() - {*OF_SETS}


def test_a_spike_changes_nothing_and_the_schedule_waits_for_it(batch):
    state, step = start(spike_factor=3.0)
    rates = []
    for _ in range(guard.WARM_UP):
        state, metrics = step(state, {}, batch)
        rates.append(float(metrics["learning_rate"]))
    assert int(metrics["skipped"]) == 0
    weight, moments = np.array(state["train"]["weight"]), jax.tree.map(np.array, state["opt"])
    high = batch | {"x": batch["x"] * 100}
    for row in (1, 2):
        state, metrics = step(state, {}, high)
        rates.append(float(metrics["learning_rate"]))
        assert (int(metrics["skipped"]), int(metrics["skipped_in_row"])) == (row, row)
    assert np.array_equal(state["train"]["weight"], weight)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state["opt"], moments)))
    state, metrics = step(state, {}, batch)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_row"])) == (2, 0)
    assert not np.array_equal(state["train"]["weight"], weight)
    want = [
        float(schedule(OptimConfig(learning_rate=1e-2, warmup_steps=3), STEPS)(n)) for n in range(guard.WARM_UP + 1)
    ]
    np.testing.assert_allclose(rates, [*want[:-1], want[-1], want[-1]], rtol=1e-5)
    assert int(state["step"]) == guard.WARM_UP + 3


def test_no_step_is_skipped_unless_it_is_asked_for(batch):
    state, step = start()
    for _ in range(guard.WARM_UP):
        state, _ = step(state, {}, batch)
    _, metrics = step(state, {}, batch | {"x": batch["x"] * 1e4})
    assert int(metrics["skipped"]) == 0
