"""Metrics of a run: one JSON line a logged step in ``W/metrics.jsonl``, and a progress bar."""

import json
from typing import Any

import jax
from etils import epath
from tqdm import tqdm


class MetricsLog:
    """The log at ``path``, continued; entries after ``step`` (of a run killed past its checkpoint) are dropped.

    ``written``: whether this process writes the file.
    """

    def __init__(self, path: epath.Path, *, step: int, written: bool = True):
        self.path, self.written = path, written
        self.entries = [entry for entry in read(path) if entry["step"] <= step]

    def write(self, entry: dict[str, Any]) -> None:
        """One logged step. The file is written anew and renamed: object stores know no appending."""
        self.entries.append(entry)
        if not self.written:
            return
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        partial.replace(self.path)


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The logged steps of a run; none where there is no log yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def progress(steps: int, done: int) -> tqdm:
    """The bar of a run of ``steps``, standing at ``done``."""
    quiet = jax.process_index() > 0
    return tqdm(
        total=steps, initial=done, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True, disable=quiet
    )
