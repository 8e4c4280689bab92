"""What a run leaves in its directory W, by name.

config.json      the resolved run; a run of another configuration is refused here
checkpoints/     trained parameters, optimizer, data position, by step
metrics.jsonl    one line a logged step; tensorboard/ the same for TensorBoard
examples/        which records each step was trained on, if that is asked for
profile/         the trace that `train --profile` asks for
diverged.json    the step, loss and examples at which a run gave up
train.json       what `train --json` holds;   evaluation.json, evaluation.md, predictions/   what `evaluate` writes
"""

import dataclasses
import json
from typing import Any

from etils import epath

from instructblip_jax import distributed, files
from instructblip_jax.checkpoint import Checkpoints
from instructblip_jax.config import RunConfig, differences, saved
from instructblip_jax.train.step import Arrays

PARTIAL = ".partial"
"""End of the name of a file that is being written."""


class Workdir:
    """The directory W of a run, local or gs://."""

    def __init__(self, path: str):
        self.path = epath.Path(path) if "://" in path else epath.Path(path).expanduser().absolute()
        self.metrics, self.examples = self.path / "metrics.jsonl", self.path / "examples"

    def check(self, run: RunConfig) -> None:
        """Raise ValueError unless W is free, was begun with this configuration, or holds no checkpoint yet.

        Names the fields that differ.
        """
        if self.read_json("config.json") is None:
            left = [path.name for path in self.path.iterdir()] if self.path.exists() else []
            if any(not name.endswith(PARTIAL) for name in left):
                raise ValueError(f"{self.path}: not empty, and no workdir of a run; choose another --workdir")
            return
        begun = self.read_json("train.json") is not None or any((self.path / "checkpoints").glob("[0-9]*"))
        found = differences(self.saved_config(), run)
        if found and begun:
            raise ValueError(
                f"{self.path}: written by another configuration: {'; '.join(found)}. "
                "Choose another --workdir, or go back to the configuration it was begun with"
            )

    def claim(self, run: RunConfig) -> None:
        """Make W this run's; see `check`. In a job of several processes all of them call it."""
        if distributed.is_writer():
            self.check(run)
            self.write_json("config.json", dataclasses.asdict(run))
        distributed.barrier("claim")
        if not (self.path / "config.json").exists():
            raise ValueError(f"{self.path}: the processes of this job do not share it; choose a --workdir that all see")

    def saved_config(self) -> RunConfig:
        """The run that wrote W, fields that came later with their defaults.

        Raises FileNotFoundError where there is none, ValueError for a run that this version does not understand.
        """
        fields = self.read_json("config.json")
        if fields is None:
            raise FileNotFoundError(f"{self.path}: no config.json, so no workdir of `instructblip train`")
        return saved(fields, str(self.path / "config.json"))

    def checkpoints(self, *, keep: int | None = None) -> Checkpoints:
        """The run's checkpoints; with ``keep``, only the newest so many stay."""
        return Checkpoints(self.path / "checkpoints", keep=keep)

    def restore_into(self, train: Arrays, step: int | None, source: str) -> int:
        """Replace ``train`` by the trained parameters of ``step`` (None: the newest whole one); returns the step.

        Raises FileNotFoundError or ValueError where there is no such checkpoint, a damaged one, or one over other
        frozen towers.
        """
        checkpoints = self.checkpoints()
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise ValueError(f"{checkpoints.directory}: no checkpoint of step {step}; there are {steps}")
        if step is not None:
            checkpoints.check(step, only="train")
        chosen = checkpoints.newest(only="train") if step is None else step
        if chosen is None:
            raise FileNotFoundError(f"{checkpoints.directory}: no checkpoint yet; `instructblip train` writes them")
        train.update(checkpoints.restore_train(chosen, train, source))
        checkpoints.close()
        return chosen

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run, or None where it is not there yet."""
        path = self.path / name
        return files.read_json(path) if path.exists() else None

    def write_json(self, name: str, content: Any) -> epath.Path:
        """Write a JSON file, whole or not at all."""
        return self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, content: str) -> epath.Path:
        """Write a text file, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + PARTIAL)
        partial.write_text(content)
        partial.replace(path)
        return path
