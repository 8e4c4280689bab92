"""Measurements of a run: rates, waiting times, compilations, memory."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from instructblip_jax.train.groups import rows

PHASES = ("start_up", "compiling", "input_wait", "saving", "validating", "steps")
"""The run is always in one of these phases. "steps": calling the step, waiting for the devices, and logging.
"input_wait": preparing a batch while no device works."""
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's own name of the event
Shapes = Mapping[str, tuple[int, ...]]


class Meter:
    """Counts from ``begun`` on. A context manager, because it listens to JAX's compiler.

    Args:
      begun: the start of the process by ``clock``, so that loading and restoring count as start-up; None means now.
      flops_per_batch: global shapes of a batch -> floating-point operations of its step; None if not known.
      peak_flops: operations per second of all devices together; None if not known: no MFU is then reported.
      clock: the time in seconds.
    """

    def __init__(
        self,
        *,
        begun: float | None = None,
        flops_per_batch: Callable[[Shapes], float] | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.clock = clock
        self.begun = clock() if begun is None else begun
        self.flops_per_batch, self.peak_flops = flops_per_batch, peak_flops
        self.flops: dict[tuple, float] = {}  # of the shapes so far
        self.now = ("start_up", self.begun)
        self.spent = dict.fromkeys(PHASES, 0.0)
        self.compilations = 0
        self.saves = 0
        self.passed: Counter[str] = Counter()  # records that were too long -> visits
        self.named: set[str] = set()  # those already named in an entry
        self.whole = _Sums()  # since the start
        self.recent = _Sums()  # since the last entry
        self.mark = (self.begun, 0.0, 0.0, 0)  # of the last entry: time, input wait, validation, compilations

    def __enter__(self) -> "Meter":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        self.compilations += event == COMPILED

    def enter(self, phase: str) -> None:
        """Start ``phase``, one of `PHASES`."""
        now = self.clock()
        before, since = self.now
        self.spent[before] += now - since
        self.saves += phase == "saving" != before
        self.now = (phase, now)

    def hidden(self) -> None:
        """Count the time of the current phase as "steps", because the devices worked throughout."""
        self.now = ("steps", self.now[1])

    def start_entries(self) -> None:
        """End start-up: the first entry counts from here."""
        self.enter("steps")
        self._mark()

    def _mark(self) -> None:
        self.mark = (self.now[1], self.spent["input_wait"], self.spent["validating"], self.compilations)

    def add(self, metrics: Mapping[str, np.ndarray], shapes: Shapes) -> None:
        """Count a finished step by its metrics and the global shapes of its batch."""
        for sums in (self.whole, self.recent):
            sums.add(metrics, rows(shapes), self._flops(shapes))

    def _flops(self, shapes: Shapes) -> float:
        if not (self.flops_per_batch and self.peak_flops):
            return 0.0
        signature = tuple(sorted(shapes.items()))
        if signature not in self.flops:  # the step is traced for each new shape, which takes a second or two
            self.flops[signature] = self.flops_per_batch(shapes)
        return self.flops[signature]

    def entry(self) -> dict[str, Any]:
        """The figures since the last entry, of all hosts together, except memory and waiting, which are this host's."""
        self.enter("steps")
        now = self.now[1]
        then, waited, validated, compiled = self.mark
        seconds, recent = now - then - (self.spent["validating"] - validated), self.recent
        figures: dict[str, Any] = {
            "seconds": round(seconds, 3),
            "samples_per_second": recent.samples / seconds,
            "tokens_per_second": recent.tokens / seconds,
            **self._mfu(recent, seconds),
            "input_wait": (self.spent["input_wait"] - waited) / seconds,
            "compilations": self.compilations - compiled,
            "memory": memory(),
            **self._passed_over(),
        }
        self._mark()
        self.recent = _Sums()
        return figures

    def _passed_over(self) -> dict[str, Any]:
        new = sorted(self.passed.keys() - self.named)
        self.named.update(new)
        return {"passed_over": self.passed.total(), "too_long": new} if self.passed else {}

    def _mfu(self, sums: "_Sums", seconds: float) -> dict[str, float]:
        return {"mfu": sums.flops / seconds / self.peak_flops} if self.peak_flops and sums.flops else {}

    def shares(self) -> dict[str, float]:
        """The fraction of the process's time so far spent in each phase; they sum to 1."""
        self.enter(self.now[0])
        total = sum(self.spent.values())
        return {phase: round(seconds / total, 4) for phase, seconds in self.spent.items()}

    def summary(self) -> str:
        """A Markdown table. The steady state excludes start-up, compiling and saving."""
        self.enter(self.now[0])
        waited, saved, validated = (self.spent[phase] for phase in ("input_wait", "saving", "validating"))
        steady = max(waited + self.spent["steps"], 1e-9)
        use = memory()
        rows = {
            "samples/s": f"{self.whole.samples / steady:.1f}",
            "response tokens/s": f"{self.whole.tokens / steady:.0f}",
            **{name.upper(): f"{100 * share:.1f} %" for name, share in self._mfu(self.whole, steady).items()},
            "waiting for input": f"{100 * waited / steady:.1f} %",
            "programs compiled": f"{self.compilations} ({self.spent['compiling']:.1f} s)",
            "checkpoints": f"{self.saves} ({saved:.1f} s)",
            **({"validation": f"{validated:.1f} s"} if validated else {}),
            **({"records too long": f"{len(self.passed):,}"} if self.passed else {}),
            "start-up": f"{self.spent['start_up']:.1f} s",
            **{f"memory, {name.replace('_', ' ')}": f"{size / 2**30:.2f} GiB" for name, size in use.items()},
        }
        width = max(map(len, rows))
        lines = [f"| {name:<{width}} | {value:>16} |" for name, value in rows.items()]
        return "\n".join([f"| {'steady state':<{width}} | {'':>16} |", f"|{'-' * (width + 2)}|{'-' * 17}:|", *lines])


class _Sums:
    """Sums over steps."""

    def __init__(self) -> None:
        self.samples, self.tokens, self.flops = 0, 0.0, 0.0

    def add(self, metrics: Mapping[str, np.ndarray], samples: int, flops: float) -> None:
        self.samples += samples
        self.tokens += float(metrics["tokens"])
        self.flops += flops


def memory() -> dict[str, int]:
    """Bytes: the highest peak so far among this host's devices, and the process's resident memory.

    A figure that the device or the operating system does not report is left out.
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    statm = Path("/proc/self/statm")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None
    found = {"device_peak": max(known, default=None), "host": resident}
    return {name: size for name, size in found.items() if size is not None}
