"""Training loop: the next batch is prepared while a step runs, and metrics are read one step late."""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from instructblip_jax.systems.protocol import Batch
from instructblip_jax.train import guard, log
from instructblip_jax.train.meter import Meter
from instructblip_jax.train.step import Arrays, Step, TrainState
from instructblip_jax.train.stop import SigtermNotice, Stopped
from instructblip_jax.train.trace import Trace
from instructblip_jax.train.watchdog import Watchdog
from instructblip_jax.train.window import Window

SHOWN = ("grad_norm", "learning_rate", "skipped")
"""Metrics of a step that are logged unchanged."""


class Data(Protocol):
    """Batches whose position can be saved.

    "uid" (a list of B names) stays on the host; it is reported if the run diverges. "passed" lists the uids of records
    that were skipped because they are too long.
    """

    def __next__(self) -> Mapping[str, Any]: ...

    def get_state(self) -> Any: ...


class Save(Protocol):
    """``place`` holds "iterator", the position in the data, and "window", the state of the job's `Window`."""

    def __call__(self, step: int, state: TrainState, place: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Job:
    """Steps to run, from ``start`` (already done) to ``steps``, and the actions between them.

    ``save`` is called every ``checkpoint_every`` steps and at the end; ``validate`` (trained parameters and memory ->
    loss of each set), if given, every ``validate_every`` steps and at the end. ``window`` has its state after step
    ``start``.
    """

    start: int
    steps: int
    log_every: int
    checkpoint_every: int
    save: Save
    metrics_log: log.MetricsLog
    meter: Meter
    window: Window = dataclasses.field(default_factory=Window)
    trace: Trace | None = None
    validate: Callable[[Arrays, Arrays], dict[str, float]] | None = None
    validate_every: int = 1

    def validates(self, step: int) -> bool:
        """True if a validation loss is computed after this step."""
        return self.validate is not None and step > 0 and (step % self.validate_every == 0 or step == self.steps)


@dataclasses.dataclass(frozen=True)
class _Running:
    """A step whose metrics have not been read yet."""

    step: int
    metrics: dict[str, jax.Array]
    shapes: dict[str, tuple[int, ...]]
    uids: list[str]


def run(
    state: TrainState,
    frozen: Arrays,
    step_fn: Step,
    data: Data,
    put: Callable[[Mapping[str, np.ndarray]], Batch],
    job: Job,
) -> TrainState:
    """Train from step ``job.start`` to ``job.steps``.

    The next batch of ``data`` is used for the first step. Raises guard.DivergedError for a NaN or infinite loss, or if
    too many steps in a row were skipped: nothing is saved from then on, and the step itself has not changed the
    parameters. Raises stop.Stopped after a SIGTERM: the current step is finished and its state saved.
    """
    running: deque[_Running] = deque()
    compiled: set[tuple] = set()
    meter = job.meter

    def settle(keep: int) -> None:
        """Read the metrics of all but the last ``keep`` steps."""
        while len(running) > keep:
            done = running.popleft()
            values = jax.device_get(done.metrics)
            watchdog.beat(done.step)
            guard.check(done.step, values, done.uids)
            meter.add(values, done.shapes)
            job.window.add(values)
            if done.step % job.log_every == 0 or done.step == job.steps:
                shown = {name: values[name].item() for name in SHOWN if name in values}
                entry = {**_now(done.step), **shown, **job.window.entry(), **meter.entry()}
                job.metrics_log.write(entry)
                log.show(bar, entry)

    def validate(step: int) -> None:
        meter.enter("validating")
        losses = job.validate(state["train"], state["memory"])  # type: ignore[misc]
        job.metrics_log.write({**_now(step), "validation": losses})
        log.report_validation(step, losses)
        meter.enter("steps")

    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(log.progress(job.steps, job.start))
        notice = stack.enter_context(SigtermNotice())
        watchdog = stack.enter_context(Watchdog(meter, job.start))
        if job.trace:
            stack.callback(job.trace.end)
        meter.start_entries()
        if job.validates(job.start) and not job.metrics_log.validated(job.start):
            validate(job.start)  # the run ended after this step, before its validation
        for step in range(job.start + 1, job.steps + 1):
            if job.trace:
                job.trace.before(step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                # The devices still compute the previous step while the host prepares this batch.
                meter.enter("input_wait")
                host = dict(next(data))
                uids = host.pop("uid", [])
                meter.passed.update(host.pop("passed", []))
                batch = put(host)
                if running and not running[-1].metrics["loss"].is_ready():  # type: ignore[attr-defined]
                    meter.hidden()
                shapes = {name: x.shape for name, x in batch.items()}
                signature = tuple(sorted(shapes.items()))
                meter.enter("steps" if signature in compiled else "compiling")
                compiled.add(signature)
                state, metrics = step_fn(state, frozen, batch)
                meter.enter("steps")
            running.append(_Running(step, metrics, shapes, uids))
            settle(keep=1)
            bar.update()
            stopping = notice.came(step)
            if job.trace and job.trace.ends(step):
                settle(keep=0)
                job.trace.end()
            if job.validates(step) and not stopping:  # little time is left when a run is stopped
                settle(keep=0)
                validate(step)
            if stopping or step % job.checkpoint_every == 0 or step == job.steps:
                settle(keep=0)
                meter.enter("saving")
                job.save(step, state, {"iterator": data.get_state(), "window": job.window.get_state()})
                meter.enter("steps")
            if stopping and step < job.steps:
                raise Stopped(step)
    return state


def _now(step: int) -> dict[str, Any]:
    return {"step": step, "time": round(time.time(), 3)}
