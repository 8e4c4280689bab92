"""Stopping between two steps: on SIGTERM, or when a machine is about to be preempted."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """The run was stopped early; its state after ``step`` is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM after step {step}; the same command resumes from there")
        self.step = step


class SigtermNotice:
    """Context in which a first SIGTERM is recorded instead of ending the process; a second one ends it at once.

    In a job of several processes, JAX's coordinator receives the signal of any of them and chooses the step after which
    all of them stop: every process must call `came` after every step.
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
        """True if the run must stop after ``step``."""
        if jax.process_count() == 1:
            return self.noted
        return multihost_utils.reached_preemption_sync_point(step)
