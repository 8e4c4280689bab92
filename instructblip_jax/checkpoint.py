"""Checkpoints of a run: trained parameters, optimizer, step and data position. Never the frozen parameters.

The frozen towers are named by their source and its fingerprint, so that a checkpoint is never laid over others.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from instructblip_jax.mesh import fetch
from instructblip_jax.train.step import Arrays, TrainState

_EDGE = 1 << 20  # bytes read at either end of a weight file: 16 GB are not read again to tell two models apart


def fingerprint(directory: Path) -> str:
    """Of a model directory: its config.json, and the size, first and last MiB of each weight file."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            digest.update(file.read(_EDGE))
    return digest.hexdigest()


def weights_sha256(train: Arrays) -> str:
    """Of the trained parameters, in the order of their paths: names and float32 bytes. All hosts must call it."""
    digest = hashlib.sha256()
    for path in sorted(train):
        digest.update(path.encode())
        digest.update(fetch(train[path]).tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints under ``directory``. A half-written one is never seen: Orbax commits by renaming."""

    def __init__(self, directory: epath.Path, *, keep: int | None = None):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self.directory = directory
        self.manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        """The steps there are, ascending."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: TrainState, data_state: Any, source: str) -> None:
        """Write in the background; returns when the arrays may be donated again."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(dict(state)),
            data=ocp.args.JsonSave({"iterator": data_state}),
            source=ocp.args.JsonSave({"fingerprint": source}),
        )
        self.manager.save(step, args=args)

    def restore(self, step: int, state: TrainState, source: str) -> tuple[TrainState, Any]:
        """State and data position of ``step``, laid out as ``state`` is. Raises ValueError for other frozen towers."""
        self._check_source(step, source)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(state))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        restored = self.manager.restore(step, args=args)
        return restored["state"], restored["data"]["iterator"]

    def restore_train(self, step: int, train: Arrays, source: str) -> Arrays:
        """The trained parameters of ``step`` alone, laid out as ``train`` is."""
        self._check_source(step, source)
        abstract = {"train": jax.tree.map(ocp.utils.to_shape_dtype_struct, train)}
        layout = ocp.checkpoint_utils.construct_restore_args(abstract)
        args = ocp.args.PyTreeRestore(abstract, restore_args=layout, partial_restore=True)
        with ocp.PyTreeCheckpointer() as reader:
            return reader.restore(self.directory / str(step) / "state", args=args)["train"]

    def _check_source(self, step: int, source: str) -> None:
        saved = self.manager.restore(step, args=ocp.args.Composite(source=ocp.args.JsonRestore()))
        if saved["source"]["fingerprint"] != source:
            raise ValueError(
                f"{self.directory}/{step}: trained over another model than the one given; give the model of that run"
            )

    def close(self) -> None:
        """Wait for what is being written."""
        self.manager.wait_until_finished()
        self.manager.close()
