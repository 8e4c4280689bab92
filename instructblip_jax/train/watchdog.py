"""Says so when a step hangs: since when, what the loop was doing, and what usually is the cause."""

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
"""Seconds without a finished step before anything is said; or `MEDIANS` times a step, if that is more."""
MEDIANS = 20
COMPILING = 600.0
"""The same while a program is compiled, which takes minutes for a large model."""
AGAIN = 300.0
"""Seconds from one message to the next."""

DOING = {
    "start_up": ("is starting", "the disk or bucket of the model or the sets is slow or gone"),
    "input_wait": ("waits for data", "the disk or bucket that holds the sets is slow or gone"),
    "compiling": ("compiles the step for a new batch shape", "the model is large, or another host has not got so far"),
    "steps": ("waits for the devices", "another host of this job is gone or stuck: look at the logs of the others"),
    "validating": (
        "takes the validation loss",
        "the disk or bucket that holds the sets is slow, or the model is large",
    ),
    "saving": ("saves a checkpoint", "the disk or bucket of --workdir is slow, full or gone"),
}
"""Phase of the meter -> what the loop does in it, and why that may take long."""


class Watchdog:
    """While entered, a thread looks after the steps, which are reported by `beat`."""

    def __init__(
        self,
        meter: Meter,
        step: int,
        *,
        tell: Callable[[str], None] = log.tell,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.meter, self.step, self.tell, self.clock = meter, step, tell, clock
        self.last = self.clock()
        self.told: float | None = None
        self.took: deque[float] = deque(maxlen=100)  # seconds of the last steps
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
        """``step`` is finished."""
        now, compiling = self.clock(), self.meter.spent["compiling"]
        if compiling == self.compiling:  # a step that was waited for while a program was compiled tells no pace
            self.took.append(now - self.last)
        self.compiling = compiling
        self.step, self.last, self.told = step, now, None

    def look(self) -> str | None:
        """What has to be said now, if anything."""
        now, (phase, _) = self.clock(), self.meter.now
        usual = statistics.median(list(self.took)) if self.took else 0.0
        # The devices of a first step may wait for other hosts that still compile it.
        compiling = phase == "compiling" or (phase == "steps" and not self.took)
        limit = max(COMPILING if compiling else PATIENCE, MEDIANS * usual)
        waited = now - self.last
        if waited < limit or (self.told is not None and now - self.told < AGAIN):
            return None
        self.told = now
        doing, cause = DOING[phase]
        since = datetime.now() - timedelta(seconds=waited)
        pace = f" (a step takes {usual:.3g} s)" if self.took else ""
        where = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
        return (
            f"{where}no step has finished for {waited:.0f} s, since step {self.step} at {since:%H:%M:%S}{pace}: "
            f"the loop {doing}. Usually {cause}"
        )

    def _watch(self) -> None:
        while not self.over.wait(1.0):
            message = self.look()
            if message:
                self.tell(message)
