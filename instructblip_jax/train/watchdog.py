"""Reports of a hanging step: its duration, the current phase of the loop, and the usual cause."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

import jax

from instructblip_jax.train import log
from instructblip_jax.train.meter import Meter

PATIENCE = 60.0
"""Seconds without a finished step before a report; `MEDIANS` times the median step if that is longer."""
MEDIANS = 20
COMPILING = 600.0
"""The same while a program is being compiled, which takes minutes for a large model."""
AGAIN = 300.0
"""Seconds between two reports."""

DOING = {
    "start_up": ("is starting", "the disk or bucket of the model or the data sets is slow or gone"),
    "input_wait": ("is waiting for data", "the disk or bucket of the data sets is slow or gone"),
    "compiling": (
        "is compiling the step for a new batch shape",
        "the model is large, or another host has not got this far",
    ),
    "steps": ("is waiting for the devices", "another host of this job is gone or stuck: check the logs of the others"),
    "validating": (
        "is computing the validation loss",
        "the disk or bucket of the data sets is slow, or the model is large",
    ),
    "saving": ("is saving a checkpoint", "the disk or bucket of --workdir is slow, full or gone"),
}
"""Phase of the meter -> the activity of the loop, and the usual cause of a long duration."""


class Watchdog:
    """Context in which a thread watches the steps; the loop calls `beat` after each."""

    def __init__(
        self,
        meter: Meter,
        step: int,
        *,
        report: Callable[[str], None] = log.report,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.meter, self.step, self.report, self.clock = meter, step, report, clock
        self.last = self.clock()
        self.reported: float | None = None  # time of the last report about the present step
        self.took: deque[float] = deque(maxlen=100)  # seconds per step
        self.compiling = meter.spent["compiling"]
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def beat(self, step: int) -> None:
        """Record that ``step`` is finished."""
        now, compiling = self.clock(), self.meter.spent["compiling"]
        if compiling == self.compiling:  # a step during which a program was compiled says nothing about the pace
            self.took.append(now - self.last)
        self.compiling = compiling
        self.step, self.last, self.reported = step, now, None

    def look(self) -> str | None:
        """The report that is due now, or None."""
        now, (phase, _) = self.clock(), self.meter.now
        usual = statistics.median(list(self.took)) if self.took else 0.0
        # In the first step, the devices may be waiting for other hosts that are still compiling.
        compiling = phase == "compiling" or (phase == "steps" and not self.took)
        limit = max(COMPILING if compiling else PATIENCE, MEDIANS * usual)
        waited = now - self.last
        if waited < limit or (self.reported is not None and now - self.reported < AGAIN):
            return None
        self.reported = now
        doing, cause = DOING[phase]
        since = datetime.now() - timedelta(seconds=waited)
        pace = f" (a step takes {usual:.3g} s)" if self.took else ""
        where = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
        return (
            f"{where}no step has finished for {waited:.0f} s, since step {self.step} at {since:%H:%M:%S}{pace}: "
            f"the loop {doing}. The usual cause: {cause}"
        )

    def _watch(self) -> None:
        while not self.over.wait(1.0):
            message = self.look()
            if message:
                self.report(message)
