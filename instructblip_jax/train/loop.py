"""The loop around the step: the next batch is made while a step runs, metrics are read one step late."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from instructblip_jax.systems.protocol import Batch
from instructblip_jax.train import log
from instructblip_jax.train.step import Arrays, TrainState


class DivergedError(ValueError):
    """The loss or its gradient is not a finite number any more."""


class Data(Protocol):
    """Batches whose position can be saved and set."""

    def __next__(self) -> Mapping[str, np.ndarray]: ...

    def get_state(self) -> Any: ...


class Save(Protocol):
    def __call__(self, step: int, state: TrainState, data_state: Any) -> None: ...


def run(
    state: TrainState,
    frozen: Arrays,
    step_fn: Callable[[TrainState, Arrays, Batch], tuple[TrainState, dict[str, jax.Array]]],
    data: Data,
    put: Callable[[Mapping[str, np.ndarray]], Batch],
    *,
    start: int,
    steps: int,
    log_every: int,
    checkpoint_every: int,
    save: Save,
    metrics_log: log.MetricsLog,
) -> TrainState:
    """Train from step ``start`` to ``steps``; ``save`` is called every ``checkpoint_every`` steps and at the end.

    ``data`` stands where the batch of step ``start`` comes next. Raises DivergedError at a NaN or infinite loss:
    nothing is saved from then on, and the step itself has left the parameters as they were.
    """
    pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
    clock = time.perf_counter()

    def settle(keep: int) -> None:
        """Read the metrics of all but the last ``keep`` steps."""
        nonlocal clock
        while len(pending) > keep:
            step, metrics = pending.popleft()
            values = {name: float(value) for name, value in metrics.items()}
            if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
                raise DivergedError(
                    f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; the run stops here. "
                    "The last checkpoint before it is kept: lower optim.learning_rate, set optim.clip_norm, "
                    "or look at the data, and start again in another --workdir"
                )
            if step % log_every == 0 or step == steps:
                now = time.perf_counter()
                metrics_log.write({"step": step, **values, "seconds": round(now - clock, 3)})
                clock = now
                bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)

    with log.progress(steps, start) as bar:
        for step in range(start + 1, steps + 1):
            # The device still computes the step before this one while the host makes this batch.
            batch = put(next(data))
            state, metrics = step_fn(state, frozen, batch)
            pending.append((step, metrics))
            settle(keep=1)
            bar.update()
            if step % checkpoint_every == 0 or step == steps:
                settle(keep=0)
                save(step, state, data.get_state())
    return state
