"""The loss-spike guard and the two ends of a run that has gone wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructblip_jax.train import guard
from instructblip_jax.train.optimizer import OptimConfig


@pytest.fixture
def memory():
    """A guard that has seen 100 losses around 2."""
    watch = guard.init()
    judge = jax.jit(guard.judge, static_argnums=3)
    for n in range(guard.WARM_UP):
        take, watch = judge(watch, jnp.float32(2 + (-1) ** n), jnp.float32(1), 3.0)
        assert take  # before it knows what losses are like, it refuses none
    return watch


def judge(watch, loss, factor=3.0, norm=1.0):
    take, watch = guard.judge(watch, jnp.float32(loss), jnp.float32(norm), factor)
    return bool(take), {name: float(x) for name, x in watch.items()}


def test_a_loss_far_above_the_mean_is_refused_and_remembered_apart(memory):
    assert float(memory["mean_loss"]) == pytest.approx(2.0)
    assert judge(memory, 5.9)[0]
    take, after = judge(memory, 6.1)
    assert not take
    assert after == {"mean_loss": 2.0, "counted": 100.0, "skipped": 1.0, "in_row": 1.0}


def test_the_mean_forgets_and_a_good_step_ends_the_row(memory):
    _, memory = guard.judge(memory, jnp.float32(100), jnp.float32(1), 3.0)
    take, after = judge(memory, 4.0)
    assert take
    assert after["mean_loss"] == pytest.approx(2.02)
    assert (after["skipped"], after["in_row"]) == (1, 0)


def test_without_a_factor_no_loss_is_too_high_and_no_number_is_refused_always(memory):
    assert judge(memory, 1e9, factor=0.0)[0]
    for loss, norm in ((np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan)):
        take, after = judge(memory, loss, norm=norm)
        assert not take
        assert after["mean_loss"] == 2.0
        assert after["skipped"] == 0  # the host stops the run


def metrics(loss=1.0, norm=1.0, in_row=0):
    return {"loss": np.float32(loss), "grad_norm": np.float32(norm), "skipped_in_row": np.int32(in_row)}


def test_what_ends_a_run_names_the_step_and_its_examples():
    guard.check(7, metrics(in_row=guard.SKIPPED_IN_ROW - 1), ["a"])
    with pytest.raises(guard.DivergedError, match=r"^step 7: loss nan, gradient norm 1.0; .*learning_rate") as error:
        guard.check(7, metrics(loss=np.nan), ["count/train/3", "ask/train/0"])
    uids = ["count/train/3", "ask/train/0"]
    assert error.value.record == {"step": 7, "loss": "nan", "grad_norm": "1.0", "uids": uids}
    with pytest.raises(guard.DivergedError, match=r"20 steps in a row that optim.spike_factor skipped"):
        guard.check(8, metrics(in_row=guard.SKIPPED_IN_ROW), [])


@pytest.mark.parametrize("factor", [-2.0, 0.5, 1.0])
def test_a_factor_that_would_refuse_every_step_is_refused_itself(factor):
    with pytest.raises(ValueError, match=r"optim.spike_factor"):
        OptimConfig(spike_factor=factor)
