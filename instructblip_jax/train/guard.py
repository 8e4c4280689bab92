"""Loss guard: rejects steps with a non-finite loss or gradient, and optionally loss spikes; ends diverged runs.

`judge` runs inside the jitted step, without waiting for the host: a rejected step leaves parameters and optimizer
unchanged. `check` runs on the host, a step later, and ends the run if continuing makes no sense.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

WARM_UP = 100
"""Number of losses in the running mean before a step can be skipped, and afterwards the mean's time constant."""
SKIPPED_IN_ROW = 20
"""This many skipped steps in a row end the run: the running mean no longer describes the data."""


class Guard(TypedDict):
    """State of the guard, four scalars; part of the train state and so of its checkpoints."""

    mean_loss: jax.Array  # float32, running mean over the accepted steps
    counted: jax.Array  # int32, number of accepted steps
    skipped: jax.Array  # int32, number of steps skipped as spikes
    in_row: jax.Array  # int32, number of them since the last accepted step


class DivergedError(ValueError):
    """Training has diverged. ``record`` holds the step, the loss, the gradient norm and the uids of the examples."""

    def __init__(self, message: str, record: Mapping[str, Any]):
        super().__init__(message)
        self.record = record


def init() -> Guard:
    """State before the first step."""
    # Three buffers: the step donates its state, and a buffer cannot be donated twice.
    counted, skipped, in_row = (jnp.zeros((), jnp.int32) for _ in range(3))
    return {"mean_loss": jnp.zeros((), jnp.float32), "counted": counted, "skipped": skipped, "in_row": in_row}


def judge(guard: Guard, loss: jax.Array, grad_norm: jax.Array, factor: float) -> tuple[jax.Array, Guard]:
    """Decide whether to accept a step by its loss and gradient norm, float32 scalars.

    Returns a bool scalar and the next guard state. A step is rejected if either number is not finite or, with a
    ``factor`` above 0, if the loss is more than ``factor`` times the running mean (a spike: the step is skipped).
    Losses of rejected steps do not enter the mean.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    far = (guard["counted"] >= WARM_UP) & (loss > factor * guard["mean_loss"])
    spike = finite & far if factor > 0 else jnp.zeros((), bool)
    take = finite & ~spike
    counted = guard["counted"] + take
    # A plain mean during the warm-up, an exponential one after it.
    mean = guard["mean_loss"] + (loss - guard["mean_loss"]) / jnp.clip(counted, 1, WARM_UP)
    after: Guard = {
        "mean_loss": jnp.where(take, mean, guard["mean_loss"]),
        "counted": counted,
        "skipped": guard["skipped"] + spike,
        "in_row": jnp.where(spike, guard["in_row"] + 1, 0),
    }
    return take, after


def check(step: int, metrics: Mapping[str, np.ndarray], uids: Sequence[str]) -> None:
    """Raise DivergedError if the run must end at ``step``; ``uids``: the examples of its batch, empty if unknown."""
    loss, norm, in_row = float(metrics["loss"]), float(metrics["grad_norm"]), int(metrics["skipped_in_row"])
    # As strings, because JSON has no NaN.
    record = {"step": step, "loss": str(loss), "grad_norm": str(norm), "uids": list(uids)}
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise DivergedError(
            f"step {step}: loss {loss}, gradient norm {norm}; the run stops here. "
            "The last checkpoint before it is kept: lower optim.learning_rate, set optim.clip_norm "
            "or check the data, and start again in another --workdir",
            record,
        )
    if in_row >= SKIPPED_IN_ROW:
        raise DivergedError(
            f"step {step}: loss {loss} ends {in_row} steps in a row that optim.spike_factor skipped; the run stops "
            "here. The last checkpoint is kept: check the data, or raise optim.spike_factor (0 skips nothing), "
            "and start again in another --workdir",
            record,
        )
