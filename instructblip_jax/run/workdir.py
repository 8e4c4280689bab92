"""The directory W of a run, and its files:

config.json      the resolved configuration; a run with another one is refused
train.lock       locked while `train` runs; a killed run leaves the file but not the lock
checkpoints/     by step: the train state, the position in the data, and digests of both
metrics.jsonl    one line per logged step; tensorboard/ has the same for TensorBoard
examples/        the records of each training step, with config.log_examples
profile/         the trace of `train --profile`
diverged.json    the step, loss and examples at which a run diverged
train.json       the same as `train --json`; evaluation.json, evaluation.md, predictions/ and predictions.html, which
                 shows a sample of them beside their pictures, are written by `evaluate`
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
"""Files that only `train` writes."""


class Workdir:
    """The directory W of a run, local or gs://."""

    def __init__(self, path: str):
        self.path = epath.Path(path) if "://" in path else epath.Path(path).expanduser().absolute()
        self.metrics, self.examples = self.path / "metrics.jsonl", self.path / "examples"

    def check(self, run: RunConfig, *, further: bool = False) -> RunConfig | None:
        """Raise ValueError, naming the fields that differ, if W has a run with another configuration.

        W may be empty, have the same configuration, or have no checkpoint yet. ``further``: it may also have a run with
        fewer steps that is otherwise the same, which is then returned; the result is None in all other cases.
        """
        if self.read_json("config.json") is None:
            left = [path.name for path in self.path.iterdir()] if self.path.exists() else []
            if any(name != LOCK and not name.endswith(PARTIAL) for name in left):
                raise ValueError(f"{self.path}: is not empty, and not the workdir of a run; choose another --workdir")
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
            "Choose another --workdir, or go back to the configuration that it was started with"
        )

    def holds_checkpoints(self) -> bool:
        """True if there is any checkpoint, even a damaged one."""
        return any((self.path / "checkpoints").glob("[0-9]*"))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create W if necessary, and lock it for this run. All processes of a job must enter it.

        Only a local W can be locked; the operating system releases the lock when the process ends in any way. (NFS also
        has such locks, and releases those of a dead host when its lease expires, after a minute or two.) If a run is
        refused before it claims W, W is unchanged. Raises ValueError if W cannot be written to, if
        another `train` is running in it, or if the processes of a job do not share it.
        """
        refused, probe = None, self.path / f"probe{PARTIAL}"
        with contextlib.ExitStack() as stack:
            if distributed.is_writer():
                try:
                    if "://" in str(self.path):
                        print(f"{self.path}: a bucket cannot be locked; make sure that no second `train` writes there")
                    else:
                        stack.enter_context(self._locked())
                    probe.write_text("written to test whether this directory is writable\n")
                except OSError as error:
                    refused = f"{self.path}: cannot be written to ({error}); choose another --workdir"
                except ValueError as error:
                    refused = str(error)
            refused = distributed.from_first(refused)
            if refused:
                raise ValueError(refused)
            if not probe.exists():
                raise ValueError(
                    f"{self.path}: the processes of this job do not share it; choose a --workdir that all of them see"
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
                    f"{self.path}: another `train` is running here ({holder}); wait until it ends, "
                    "or choose another --workdir"
                ) from None
            except OSError as error:
                print(
                    f"{self.path}: cannot be locked ({error}); make sure that no second `train` writes there",
                    flush=True,
                )
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                break
            os.close(fd)  # its last owner has removed the file in the meantime
        try:
            os.truncate(fd, 0)
            os.write(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield
        finally:
            if os.listdir(self.path) == [LOCK]:  # the run was refused
                os.unlink(path)
                if made:
                    os.rmdir(self.path)
            os.close(fd)

    def claim(self, run: RunConfig) -> None:
        """Write this run's configuration to W, which must be `held`. All processes of a job must call it."""
        if distributed.is_writer():
            for name in OF_TRAIN:  # left over from a run that was killed while writing
                for path in self.path.glob(f"{name}.*{PARTIAL}"):
                    path.unlink()
            if self.check(run, further=True):
                (self.path / "train.json").unlink(missing_ok=True)  # no longer finished
            self.write_json("config.json", dataclasses.asdict(run))
        distributed.barrier("claim")

    def saved_config(self) -> RunConfig:
        """The configuration in W; fields added since it was written have their defaults.

        Raises FileNotFoundError if there is none, ValueError if this version cannot read it.
        """
        fields = self.read_json("config.json")
        if fields is None:
            raise FileNotFoundError(f"{self.path}: has no config.json, so it is not a workdir of `instructblip train`")
        return saved(fields, str(self.path / "config.json"))

    def checkpoints(self, *, keep: int | None = None) -> Checkpoints:
        """The run's checkpoints; with ``keep``, only this many of the newest are kept."""
        return Checkpoints(self.path / "checkpoints", keep=keep)

    def restore_into(self, train: Arrays, step: int | None, source: str) -> int:
        """Replace ``train`` by the trained parameters of ``step`` (None: the newest undamaged one); returns the step.

        ``source``: the `checkpoint.fingerprint` of the model. Raises FileNotFoundError or ValueError if there is no
        such checkpoint, or if it is damaged, belongs to another model or trained other parameters.
        """
        checkpoints = self.checkpoints()
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise ValueError(f"{checkpoints.directory}: has no checkpoint of step {step}; the steps are {steps}")
        if step is not None:
            checkpoints.check(step, only="train")
        chosen = checkpoints.newest(only="train") if step is None else step
        if chosen is None:
            raise FileNotFoundError(f"{checkpoints.directory}: has no checkpoint yet; `instructblip train` writes them")
        train.update(checkpoints.restore_train(chosen, train, source))
        checkpoints.close()
        return chosen

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file in W, or None if it does not exist yet."""
        path = self.path / name
        return files.read_json(path) if path.exists() else None

    def write_json(self, name: str, content: Any) -> epath.Path:
        """Write a JSON file atomically; returns its path."""
        return self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, content: str) -> epath.Path:
        """Write a text file atomically; returns its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, content)
        return path
