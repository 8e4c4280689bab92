"""What stops a run, or one step of it: a loss that is no number, and a loss far above what losses have been.

The judgement is made inside the jitted step, without waiting for the host: a refused step leaves the parameters and
the optimizer as they were. The host reads it later, and ends the run where going on makes no sense.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

WARM_UP = 100
"""Losses the running mean is made of before a step can be skipped, and over which it forgets from then on."""
SKIPPED_IN_ROW = 20
"""So many skipped steps one after another end the run: the mean is not of this data any more."""


class Guard(TypedDict):
    """The guard's memory, part of the state and of its checkpoints: four scalars."""

    mean_loss: jax.Array  # float32, of the steps that counted
    counted: jax.Array  # int32, how many these were
    skipped: jax.Array  # int32, steps skipped in all
    in_row: jax.Array  # int32, and without one between them that counted


class DivergedError(ValueError):
    """Training stops here; ``record`` says at which step, with what loss, on which examples."""

    def __init__(self, message: str, record: Mapping[str, Any]):
        super().__init__(message)
        self.record = record


def init() -> Guard:
    """Before the first step."""
    counted, skipped, in_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # each its own: the step is given them
    return {"mean_loss": jnp.zeros((), jnp.float32), "counted": counted, "skipped": skipped, "in_row": in_row}


def judge(guard: Guard, loss: jax.Array, grad_norm: jax.Array, factor: float) -> tuple[jax.Array, Guard]:
    """Whether a step of this loss and gradient norm (float32 scalars) may change anything, and what is remembered.

    It may not where either is no finite number, nor, with a ``factor`` above 0, where the loss is more than ``factor``
    times the running mean. A skipped loss does not enter the mean.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    far = (guard["counted"] >= WARM_UP) & (loss > factor * guard["mean_loss"])
    spike = finite & far if factor > 0 else jnp.zeros((), bool)
    take = finite & ~spike
    counted = guard["counted"] + take
    # A plain mean at first, one that forgets after the warm-up.
    mean = guard["mean_loss"] + (loss - guard["mean_loss"]) / jnp.clip(counted, 1, WARM_UP)
    after: Guard = {
        "mean_loss": jnp.where(take, mean, guard["mean_loss"]),
        "counted": counted,
        "skipped": guard["skipped"] + spike,
        "in_row": jnp.where(spike, guard["in_row"] + 1, 0),
    }
    return take, after


def check(step: int, metrics: Mapping[str, np.ndarray], uids: Sequence[str]) -> None:
    """Raise DivergedError where the run must end at ``step``; ``uids`` are the examples of its batch, if known."""
    loss, norm, in_row = float(metrics["loss"]), float(metrics["grad_norm"]), int(metrics["skipped_in_row"])
    # JSON has no NaN: the record holds what the message says.
    record = {"step": step, "loss": str(loss), "grad_norm": str(norm), "uids": list(uids)}
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise DivergedError(
            f"step {step}: loss {loss}, gradient norm {norm}; the run stops here. "
            "The last checkpoint before it is kept: lower optim.learning_rate, set optim.clip_norm, "
            "or look at the data, and start again in another --workdir",
            record,
        )
    if in_row >= SKIPPED_IN_ROW:
        raise DivergedError(
            f"step {step}: loss {loss} ends {in_row} steps in a row that optim.spike_factor skipped; the run stops "
            "here. The last checkpoint is kept: look at the data, or raise optim.spike_factor (0 skips nothing) and "
            "start again in another --workdir",
            record,
        )
