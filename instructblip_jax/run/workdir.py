"""What a run leaves in its directory W, by name.

config.json      the resolved run; a run of another configuration is refused here
train.lock       locked while `train` runs here; a killed run leaves the file, not the lock
checkpoints/     trained parameters, optimizer, place in the data and which data they are, by step
metrics.jsonl    one line a logged step; tensorboard/ the same for TensorBoard
examples/        which records each step was trained on, if that is asked for
profile/         the trace that `train --profile` asks for
diverged.json    the step, loss and examples at which a run gave up
train.json       what `train --json` holds;   evaluation.json, evaluation.md, predictions/   what `evaluate` writes
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

from etils import epath

from instructblip_jax import distributed, files
from instructblip_jax.files import PARTIAL
from instructblip_jax.run.checkpoint import Checkpoints
from instructblip_jax.run.config import RunConfig, differences, goes_further, saved
from instructblip_jax.train.step import Arrays

LOCK = "train.lock"
OF_TRAIN = ("config.json", "metrics.jsonl", "train.json", "diverged.json")
"""Files that `train` alone writes."""


class Workdir:
    """The directory W of a run, local or gs://."""

    def __init__(self, path: str):
        self.path = epath.Path(path) if "://" in path else epath.Path(path).expanduser().absolute()
        self.metrics, self.examples = self.path / "metrics.jsonl", self.path / "examples"

    def check(self, run: RunConfig, *, further: bool = False) -> RunConfig | None:
        """Raise ValueError unless W is free, was begun with this configuration, or holds no checkpoint yet.

        Names the fields that differ. ``further``: more steps than W was begun with will do, too; the run that it was
        begun with is then returned, and None in all other cases.
        """
        if self.read_json("config.json") is None:
            left = [path.name for path in self.path.iterdir()] if self.path.exists() else []
            if any(name != LOCK and not name.endswith(PARTIAL) for name in left):
                raise ValueError(f"{self.path}: not empty, and no workdir of a run; choose another --workdir")
            return None
        begun = self.read_json("train.json") is not None or self.holds_checkpoints()
        before = self.saved_config()
        found = differences(before, run)
        if not found or not begun:
            return None
        if further and goes_further(before, run):
            return before
        raise ValueError(
            f"{self.path}: written by another configuration: {'; '.join(found)}. "
            "Choose another --workdir, or go back to the configuration it was begun with"
        )

    def holds_checkpoints(self) -> bool:
        """True if there is any checkpoint, whole or damaged."""
        return any((self.path / "checkpoints").glob("[0-9]*"))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """W, made where it is not there, for this run alone. In a job of several processes all of them call it.

        Only a local W can be locked; the system gives the lock back when the process ends, however it ends. (NFS has
        such locks, too: of a host that died without a word it frees them when its lease ends, after a minute or two.)
        Where a run was refused before it claimed W, W is as it was. Raises ValueError where W cannot be written to,
        where another `train` is at work in it, or where the processes of a job do not share it.
        """
        refused, probe = None, self.path / f"probe{PARTIAL}"
        with contextlib.ExitStack() as stack:
            if distributed.is_writer():
                try:
                    if "://" in str(self.path):
                        print(f"{self.path}: a bucket cannot be locked; see to it that no second `train` writes there")
                    else:
                        stack.enter_context(self._locked())
                    probe.write_text("written to see whether this directory can be written to\n")
                except OSError as error:
                    refused = f"{self.path}: cannot be written to ({error}); choose another --workdir"
                except ValueError as error:
                    refused = str(error)
            refused = distributed.from_first(refused)
            if refused:
                raise ValueError(refused)
            if not probe.exists():
                raise ValueError(
                    f"{self.path}: the processes of this job do not share it; choose a --workdir that all see"
                )
            distributed.barrier("probe")
            if distributed.is_writer():
                probe.unlink()
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path, made = os.fspath(self.path / LOCK), not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(fd, 200).decode(errors="replace").strip()
                os.close(fd)
                raise ValueError(
                    f"{self.path}: another `train` is at work here ({holder}); wait until it ends, "
                    "or choose another --workdir"
                ) from None
            except OSError as error:
                print(
                    f"{self.path}: cannot be locked ({error}); see to it that no second `train` writes there",
                    flush=True,
                )
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                break
            os.close(fd)  # whoever held it has removed the file meanwhile
        try:
            os.truncate(fd, 0)
            os.write(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield
        finally:
            if os.listdir(self.path) == [LOCK]:  # of a run that was refused
                os.unlink(path)
                if made:
                    os.rmdir(self.path)
            os.close(fd)

    def claim(self, run: RunConfig) -> None:
        """Make W, which is held, this run's; see `check`. In a job of several processes all of them call it."""
        if distributed.is_writer():
            for name in OF_TRAIN:  # left by a run that was killed while it wrote
                for path in self.path.glob(f"{name}.*{PARTIAL}"):
                    path.unlink()
            if self.check(run, further=True):
                (self.path / "train.json").unlink(missing_ok=True)  # the run is not finished any more
            self.write_json("config.json", dataclasses.asdict(run))
        distributed.barrier("claim")

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
        files.write_whole(path, content)
        return path
