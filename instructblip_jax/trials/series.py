"""Trains and evaluates runs one after the other with the ordinary commands; finished runs are left unchanged."""

import dataclasses
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

STOPPED = 143
"""Exit status of a run that was stopped by SIGTERM and saved."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a series.

    Attributes:
      name: the name of its configuration.
      config: FILE.py or FILE.py:VARIANT.
      seed: the seed of the run.
      root: the directory of the series.
    """

    name: str
    config: str
    seed: str
    root: epath.Path

    @property
    def workdir(self) -> epath.Path:
        """The directory of the run."""
        return self.root / self.name / f"seed-{self.seed}"

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The contents of evaluation.json, if the run's last step was evaluated."""
        evaluation, finished = (self.workdir / name for name in ("evaluation.json", "train.json"))
        if not (evaluation.exists() and finished.exists()):
            return None
        found = json.loads(evaluation.read_text())
        return found if found["step"] == json.loads(finished.read_text())["steps"] else None


def run(trials: Sequence[Trial], overrides: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Train and evaluate what is missing. Returns name -> the contents of evaluation.json, one per seed.

    ``overrides``: flags such as --config.steps=500 for all runs. Raises ValueError if a run fails; finished runs are
    kept. Exits with `STOPPED` after a run that was stopped.
    """
    for number, trial in enumerate(trials):
        where = f"run {number + 1} of {len(trials)}: {trial.name}, seed {trial.seed}: {trial.workdir}"
        print(where + _left(trials, trials[number:]), flush=True)
        for command in ("train", "evaluate"):
            # `train` returns at once for a finished run, continues one that is given more steps, and refuses one that
            # was made with other overrides.
            if command == "evaluate" and trial.evaluation is not None:
                continue
            given = [f"--config={trial.config}", f"--config.seed={trial.seed}", f"--workdir={trial.workdir}"]
            line = [sys.executable, "-m", "instructblip_jax", command, *given, *overrides]
            status = call(line)
            if status == STOPPED:
                sys.exit(STOPPED)
            if status:
                raise ValueError(
                    f"{command} of {trial.name}, seed {trial.seed} failed (see above); the finished runs are kept"
                )
    results: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        results.setdefault(trial.name, []).append(json.loads((trial.workdir / "evaluation.json").read_text()))
    return results


def call(line: Sequence[str]) -> int:
    """Run a command line and return its exit status. SIGTERM is forwarded to it, so that it saves and exits."""
    with subprocess.Popen(line) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            return child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def _left(trials: Sequence[Trial], left: Sequence[Trial]) -> str:
    """The estimated remaining time: unfinished runs count like finished ones of the same name, or else of any name."""
    took: dict[str, list[float]] = {}
    for trial in trials:
        found = trial.evaluation
        if found and "seconds" in found:
            took.setdefault(trial.name, []).append(found["seconds"])
    if not took:
        return ""
    any_name = statistics.fmean(x for own in took.values() for x in own)
    waiting = [trial for trial in left if trial.evaluation is None]
    seconds = sum(statistics.fmean(took.get(trial.name, [any_name])) for trial in waiting)
    return f" (about {seconds / 60:.0f} min left)"
