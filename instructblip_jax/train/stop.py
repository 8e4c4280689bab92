"""Ending between two steps: SIGTERM, or the notice that a machine is about to be taken away."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """The run has ended early, its state saved after ``step``."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM after step {step}; the same command goes on from there")
        self.step = step


class SigtermNotice:
    """While entered, a SIGTERM is noted instead of obeyed; a second one ends the process at once.

    In a job of several processes JAX's coordinator takes the signal of any of them, and names the step after which all
    of them stop: `came` must be asked by each of them after each step.
    """

    def __init__(self) -> None:
        self.noted = False

    def __enter__(self) -> "SigtermNotice":
        self.own = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        if self.own:
            self.previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.own:
            signal.signal(signal.SIGTERM, self.previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def came(self, step: int) -> bool:
        """Whether the run has to end after ``step``."""
        if jax.process_count() == 1:
            return self.noted
        return multihost_utils.reached_preemption_sync_point(step)
