"""Metrics of a run: a JSON line per logged step in ``W/metrics.jsonl``, the same for TensorBoard, and a progress bar.

Fields of a line, by what they cover:

- this step: step, time (seconds since 1970), grad_norm, learning_rate;
- all steps since the previous line: loss (mean over everything that counts, such as response tokens), tokens (their
  number), terms (loss term -> mean, if there are several; "GROUP/TERM" where steps have groups), losses (set -> mean),
  seconds (without validation), samples_per_second, tokens_per_second, mfu (if the chip's peak is known), input_wait
  (share of the time), compilations, too_long (uids of records that were too long and are skipped for the first time);
- the run so far: skipped (steps, by the loss-spike guard), samples (set -> number drawn), passed_over (visits of
  records that are too long), memory (bytes: peak of a device of this host, and resident on the host);
- this step, if it was validated: validation (set -> mean loss of held-out records). A step that is validated but not
  logged has a line with this field alone.
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
from instructblip_jax.train.tracker import Tracker

PROGRESS_LINES = 10
"""Number of lines that report the progress of a run if there is no terminal for a bar."""


class MetricsLog:
    """Log at ``path``. An existing one is continued; its entries after ``step`` (of a run that was killed) are dropped.

    ``events``: the directory of the TensorBoard files. ``tracker``: has the same entries, if there is one. Only the
    first of several processes writes.
    """

    def __init__(self, path: epath.Path, events: epath.Path, *, step: int, tracker: Tracker | None = None):
        self.path = path
        self.entries = [entry for entry in read(path) if entry["step"] <= step]
        self.events = Events(events, step=step) if jax.process_index() == 0 else None
        self.tracker = tracker

    def write(self, entry: dict[str, Any]) -> None:
        """Write the entry of a logged step; further fields of the last one are added to it."""
        if self.entries and self.entries[-1]["step"] == entry["step"]:
            self.entries[-1] |= entry
        else:
            self.entries.append(entry)
        if self.events is None:
            return
        # The whole file is rewritten and renamed, because object stores cannot append.
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in self.entries))
        self.events.write(entry)
        if self.tracker is not None:
            self.tracker.write(entry["step"], dict(scalars(entry)))

    def losses(self) -> list[float]:
        """Losses of all logged steps."""
        return [entry["loss"] for entry in self.entries if "loss" in entry]

    def validated(self, step: int) -> bool:
        """True if ``step`` has a validation loss."""
        return any(entry["step"] == step and "validation" in entry for entry in self.entries)


class Events:
    """TensorBoard file with the entries, one file in ``directory`` per start of the run.

    TensorBoard no longer shows what an earlier start wrote after ``step``, where this one begins. Its own writer
    appends, which on gs:// overwrites, so only its record framing is used here.
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
        """Write the entry of a logged step.

        In place, because a running TensorBoard continues to read the file where it stopped.
        """
        self._add(event(entry))
        self.path.write_bytes(self.buffer.getvalue())

    def _add(self, event: event_pb2.Event) -> None:
        self.records.write(event.SerializeToString())


def event(entry: Mapping[str, Any]) -> event_pb2.Event:
    """Convert an entry to a TensorBoard event: a scalar for each number, named "losses/caption" if it is in a dict."""
    values = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(entry)]
    return event_pb2.Event(step=entry["step"], wall_time=entry["time"], summary=summary_pb2.Summary(value=values))


def scalars(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of an entry, as `event` names them."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif name not in ("step", "time", "too_long"):
            yield prefix + name, float(value)


def read(path: epath.Path) -> list[dict[str, Any]]:
    """Read the entries of a log; an empty list if there is none yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Lines:
    """Replacement of the progress bar without a terminal: prints a line every tenth of the run."""

    def __init__(
        self, steps: int, done: int, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ):
        self.total, self.n, self.report, self.clock = steps, done, report, clock
        self.start, self.begun, self.postfix = done, clock(), ""

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        """Count a finished step."""
        self.n += 1
        if self.n == self.total or self.n * PROGRESS_LINES // self.total > (self.n - 1) * PROGRESS_LINES // self.total:
            seconds = self.clock() - self.begun
            left = seconds * (self.total - self.n) / (self.n - self.start)
            figures = f", {self.postfix}" if self.postfix else ""
            self.report(
                f"step {self.n} of {self.total} ({100 * self.n // self.total} %){figures}, "
                f"{tqdm.format_interval(seconds)} elapsed, {tqdm.format_interval(left)} left"
            )

    def set_postfix(self, figures: Mapping[str, str], refresh: bool = False) -> None:
        """Set the figures of the next line."""
        self.postfix = ", ".join(f"{name} {value}" for name, value in figures.items())


def progress(steps: int, done: int) -> tqdm | Lines:
    """Progress bar of a run of ``steps``, starting at ``done``. Only the first process shows one."""
    quiet = jax.process_index() > 0
    if not quiet and not sys.stderr.isatty():
        return Lines(steps, done, report)
    return tqdm(
        total=steps, initial=done, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True, disable=quiet
    )


def report(message: str) -> None:
    """Print a line on stderr, above the bar."""
    tqdm.write(f"instructblip train: {message}", file=sys.stderr)


def report_validation(step: int, losses: Mapping[str, float]) -> None:
    """Print the validation losses of a step, in the first process only."""
    if jax.process_index() == 0:
        report(f"validation loss after step {step}: " + ", ".join(f"{name} {x:.4f}" for name, x in losses.items()))


def show(bar: tqdm | Lines, entry: Mapping[str, Any]) -> None:
    """Show the figures of a logged step in the bar."""
    figures = {"loss": f"{entry['loss']:.4f}", "samples/s": f"{entry['samples_per_second']:.1f}"}
    if "mfu" in entry:
        figures["MFU"] = f"{100 * entry['mfu']:.1f} %"
    bar.set_postfix(figures, refresh=False)
