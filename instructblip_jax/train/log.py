"""Metrics of a run: one JSON line a logged step in ``W/metrics.jsonl``, the same for TensorBoard, a progress bar.

A line holds: step, time (seconds since 1970), grad_norm, learning_rate, skipped (by the loss-spike guard, so far), of
that step; and of all steps since the line before: loss (the mean over their response tokens), tokens (the number of
these), losses (set -> mean), seconds (without validation), samples_per_second, tokens_per_second, mfu (where the chip's
peak is known), input_wait (share of the time), compilations, too_long (records that were passed over for the first
time, by uid). samples (set -> drawn so far), passed_over (visits of records that are too long) and memory (bytes) are
of now. validation (set -> mean token loss of held-out records) is of that step, where one was taken; a step that is
validated and not logged has a line with nothing else.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from instructblip_jax.files import write_whole

PARTS = 10
"""Lines about a run's progress, where no terminal shows a bar."""


class MetricsLog:
    """The log at ``path``, continued; entries after ``step`` (of a run killed past its checkpoint) are dropped.

    ``events``: the directory of the TensorBoard files. Of several processes only the first writes.
    """

    def __init__(self, path: epath.Path, events: epath.Path, *, step: int):
        self.path = path
        self.entries = [entry for entry in read(path) if entry["step"] <= step]
        self.writes = jax.process_index() == 0
        self.events = Events(events, step=step) if self.writes else None

    def write(self, entry: dict[str, Any]) -> None:
        """One logged step, or what has become known of the last one since."""
        if self.entries and self.entries[-1]["step"] == entry["step"]:
            self.entries[-1] |= entry
        else:
            self.entries.append(entry)
        if self.events is None:
            return
        # The file is written anew and renamed: object stores know no appending.
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in self.entries))
        self.events.write(entry)

    def losses(self) -> list[float]:
        """The losses of the logged steps."""
        return [entry["loss"] for entry in self.entries if "loss" in entry]

    def validated(self, step: int) -> bool:
        """True if ``step`` has a validation loss."""
        return any(entry["step"] == step and "validation" in entry for entry in self.entries)


class Events:
    """The entries as TensorBoard reads them: of each process of the run a file in ``directory``. What an earlier one
    wrote past ``step``, where this one goes on, is not shown any more.

    TensorBoard's own writer appends, which overwrites on gs://; its framing of records is used without it.
    """

    def __init__(self, directory: epath.Path, *, step: int):
        directory.mkdir(parents=True, exist_ok=True)
        earlier = [int(path.name.rsplit(".", 1)[-1]) for path in directory.glob("events.out.tfevents.*")]
        self.path = directory / f"events.out.tfevents.{1 + max(earlier, default=0):010d}"
        self.buffer = io.BytesIO()
        self.records = RecordWriter(self.buffer)
        self._add(event_pb2.Event(file_version="brain.Event:2", wall_time=time.time()))
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(event_pb2.Event(session_log=started, step=step + 1, wall_time=time.time()))

    def write(self, entry: dict[str, Any]) -> None:
        """One logged step. In place, for a TensorBoard that looks on reads on where it was."""
        self._add(event(entry))
        self.path.write_bytes(self.buffer.getvalue())

    def _add(self, event: event_pb2.Event) -> None:
        self.records.write(event.SerializeToString())


def event(entry: Mapping[str, Any]) -> event_pb2.Event:
    """A line of the log -> TensorBoard's record of it: one scalar a number, "losses/caption" for one in a dict."""
    values = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(entry)]
    return event_pb2.Event(step=entry["step"], wall_time=entry["time"], summary=summary_pb2.Summary(value=values))


def _scalars(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif name not in ("step", "time", "too_long"):
            yield prefix + name, float(value)


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The logged steps of a run; none where there is no log yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Lines:
    """The bar's stand-in where no terminal shows one: a plain line every tenth of the run."""

    def __init__(self, steps: int, done: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.total, self.n, self.say, self.clock = steps, done, say, clock
        self.start, self.begun, self.postfix = done, clock(), ""

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        """A step is done."""
        self.n += 1
        if self.n == self.total or self.n * PARTS // self.total > (self.n - 1) * PARTS // self.total:
            seconds = self.clock() - self.begun
            left = seconds * (self.total - self.n) / (self.n - self.start)
            figures = f", {self.postfix}" if self.postfix else ""
            self.say(
                f"step {self.n} of {self.total} ({100 * self.n // self.total} %){figures}, "
                f"{tqdm.format_interval(seconds)} done, {tqdm.format_interval(left)} left"
            )

    def set_postfix(self, figures: Mapping[str, str], refresh: bool = False) -> None:
        """Figures to be told with the next line."""
        self.postfix = ", ".join(f"{name} {value}" for name, value in figures.items())


def progress(steps: int, done: int) -> tqdm | Lines:
    """The bar of a run of ``steps``, standing at ``done``; it estimates the time left. One process shows it."""
    quiet = jax.process_index() > 0
    if not quiet and not sys.stderr.isatty():
        return Lines(steps, done, tell)
    return tqdm(
        total=steps, initial=done, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True, disable=quiet
    )


def tell(message: str) -> None:
    """One line on stderr, above the bar."""
    tqdm.write(f"instructblip train: {message}", file=sys.stderr)


def tell_validation(step: int, losses: Mapping[str, float]) -> None:
    """The validation losses of a step. One process tells them."""
    if jax.process_index() == 0:
        tell(f"validation loss after step {step}: " + ", ".join(f"{name} {x:.4f}" for name, x in losses.items()))


def show(bar: tqdm | Lines, entry: Mapping[str, Any]) -> None:
    """What the bar tells beside the time left."""
    figures = {"loss": f"{entry['loss']:.4f}", "samples/s": f"{entry['samples_per_second']:.1f}"}
    if "mfu" in entry:
        figures["MFU"] = f"{100 * entry['mfu']:.1f} %"
    bar.set_postfix(figures, refresh=False)
