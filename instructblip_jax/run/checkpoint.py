"""Checkpoints of a run: trained parameters, optimizer, step and place. Never the frozen parameters.

The frozen towers are named by their source and its fingerprint, so that a checkpoint is never laid over others. Beside
the arrays lie their digests, so that what a disk has damaged is not trained on: the checkpoint before it serves.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from instructblip_jax import digests, distributed
from instructblip_jax.convert.shards import weight_files
from instructblip_jax.mesh import fetch
from instructblip_jax.train.step import Arrays, TrainState

Place = Mapping[str, Any]
"""Where a run stands, beside its arrays, as JSON: "iterator", the position in the data, "sets", which data these were,
and "window", what was trained on since the last logged step. A version that kept the first alone wrote no others."""

_ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="alone")
"""For reading by process 0 without the others."""

_EDGE = 1 << 20  # bytes read at either end of a weight file: 16 GB are not read again to tell two models apart


def fingerprint(directory: Path) -> str:
    """A digest of a model directory: its config.json, and the size, first and last MiB of each weight file read."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in weight_files(directory):
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
    """The checkpoints under ``directory``. A half-written one is never seen: Orbax commits by renaming.

    A damaged one is skipped with a message. It stays where it is until a new checkpoint is about to take its place.
    """

    def __init__(self, directory: epath.Path, *, keep: int | None = None):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        handlers = {"state": _arrays(), "data": ocp.JsonCheckpointHandler(), "source": ocp.JsonCheckpointHandler()}
        self.directory = directory
        self.manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._damaged: list[int] = []

    def steps(self) -> list[int]:
        """The steps there are, ascending, whole or damaged."""
        return sorted(self.manager.all_steps())

    def newest(self, *, only: str | None = None) -> int | None:
        """The newest step that is whole, or None where there is no checkpoint; says which ones are skipped, and why.

        ``only``: judge this part of the state alone ("train"). Every process gets what process 0 found. Raises
        ValueError where all checkpoints are damaged; nothing is deleted.
        """
        steps = self.steps()
        chosen, reasons = self._first_whole(steps[::-1], only)
        if steps and chosen is None:
            raise ValueError(
                f"{self.directory}: every checkpoint is damaged: {'; '.join(reasons)}. Nothing was deleted: "
                "put back a copy of one, or train from the start in another --workdir"
            )
        self._damaged = [step for step in steps if chosen is not None and step > chosen]
        if reasons and jax.process_index() == 0:
            print(f"{self.directory}: skipped {'; '.join(reasons)}; going back to {chosen}", flush=True)
        return chosen

    def check(self, step: int, *, only: str | None = None) -> None:
        """Raise ValueError unless the checkpoint of ``step`` is whole."""
        chosen, reasons = self._first_whole([step], only)
        if chosen is None:
            raise ValueError(f"{self.directory}: damaged: {reasons[0]}; choose another of the steps {self.steps()}")

    def save(self, step: int, state: TrainState, place: Place, source: str) -> None:
        """Write in the background; returns when the arrays may be donated again.

        Damaged checkpoints that `newest` skipped are deleted here first: they would count among those that are kept.
        """
        for damaged in self._damaged:
            if jax.process_index() == 0:
                print(f"{self.directory}/{damaged}: damaged, deleted; step {step} is written now", flush=True)
            self.manager.delete(damaged)
        self._damaged = []
        of_arrays = digests.of_devices(dict(state))
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(dict(state)),
            data=ocp.args.JsonSave(dict(place)),
            source=ocp.args.JsonSave(
                {"fingerprint": source, "digests": of_arrays, "seal": _seal(source, of_arrays, place)}
            ),
        )
        self.manager.save(step, args=args)

    def restore(self, step: int, state: TrainState, source: str) -> TrainState:
        """The state of ``step``, laid out as ``state`` is, on any number of devices and processes.

        Raises ValueError for other frozen towers.
        """
        saved = self._check_source(step, source)
        args = ocp.args.Composite(state=_laid_out(dict(state)))
        restored = self.manager.restore(step, args=args)
        changed = _differing(saved.get("digests"), digests.of_devices(restored["state"]))
        if changed:
            raise ValueError(
                f"{self.directory}/{step}: whole, but {changed}, now that they are read again; start again"
            )
        return restored["state"]

    def place(self, step: int) -> Place:
        """Where the run stood after ``step``."""
        return self.manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]

    def check_sets(self, step: int, sets: Mapping[str, str]) -> None:
        """Raise ValueError unless ``sets`` (name -> digest of its records) are those that ``step`` was trained on."""
        known = self.place(step).get("sets")
        if known is None:
            if jax.process_index() == 0:
                print(f"{self.directory}/{step}: written by an earlier version, which did not note its data")
            return
        changed = sorted(name for name, digest in sets.items() if known.get(name, digest) != digest)
        if changed:
            raise ValueError(
                f"{self.directory}/{step}: trained on other records than {', '.join(changed)} holds now; "
                "was it prepared anew? Put back what it held, or train from the start in another --workdir"
            )

    def restore_train(self, step: int, train: Arrays, source: str) -> Arrays:
        """The trained parameters of ``step`` alone, laid out as ``train`` is."""
        self._check_source(step, source)
        with ocp.Checkpointer(_arrays()) as reader:
            path = self.directory / str(step) / "state"
            return reader.restore(path, args=_laid_out({"train": train}, partial_restore=True))["train"]

    def _check_source(self, step: int, source: str) -> dict[str, Any]:
        saved = self.manager.restore(step, args=ocp.args.Composite(source=ocp.args.JsonRestore()))["source"]
        if saved["fingerprint"] != source:
            raise ValueError(
                f"{self.directory}/{step}: trained over another model than the one given; give the model of that run"
            )
        return saved

    def _first_whole(self, steps: list[int], only: str | None) -> tuple[int | None, list[str]]:
        """The first of ``steps`` that is whole, and what is wrong with those before it.

        Process 0 reads by itself: a process that finds damage in a common reading would leave the others waiting.
        """
        answer: tuple[int | None, list[str]] = (None, [])
        if jax.process_index() == 0:
            for step in steps:
                damage = self._damage(step, only)
                if damage is None:
                    answer = (step, answer[1])
                    break
                answer[1].append(f"step {step} ({damage})")
        return distributed.from_first(answer)

    def _damage(self, step: int, only: str | None) -> str | None:
        """What is wrong with the checkpoint of ``step``, or None."""
        try:
            saved, data = self._read_json(step, "source"), self._read_json(step, "data")
            if "digests" not in saved:  # written before there were any
                self._read_state(step, only)
                return None
            # The seal of an earlier version is over the position alone, which was all that it kept.
            sealed = data["iterator"] if data.keys() == {"iterator"} else data
            if saved["seal"] != _seal(saved["fingerprint"], saved["digests"], sealed):
                return "its data position or its digests differ from what was saved"
            expected = {
                name: value for name, value in saved["digests"].items() if only is None or name.startswith(f"{only}/")
            }
            return _differing(expected, digests.of_host(self._read_state(step, only)))
        except Exception as error:  # a damaged file fails in as many ways as there are bytes in it
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"

    def _read_json(self, step: int, item: str) -> dict[str, Any]:
        handler = ocp.JsonCheckpointHandler(multiprocessing_options=_ALONE)
        with ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as reader:
            return reader.restore(self.directory / str(step) / item)

    def _read_state(self, step: int, only: str | None) -> dict[str, Any]:
        """NumPy arrays in the shape of the state, or of a part of it."""
        path = self.directory / str(step) / "state"
        handler = _arrays(multiprocessing_options=_ALONE)
        with ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as reader:
            tree = handler.metadata(path).tree  # the reader's own tells no reason where it fails
            tree = tree if only is None else {only: tree[only]}
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return reader.restore(path, args=ocp.args.PyTreeRestore(tree, restore_args=on_host, partial_restore=True))

    def close(self) -> None:
        """Wait for what is being written."""
        self.manager.wait_until_finished()
        self.manager.close()


def _arrays(**options: Any) -> ocp.PyTreeCheckpointHandler:
    """Writes and reads arrays alone: not how they lay on devices, nor what only random keys need."""
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler(enable_write_sharding_file=False)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, **options)


def _laid_out(tree: Any, **options: Any) -> ocp.args.PyTreeRestore:
    """To restore in the shapes and shardings of ``tree``."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
    layout = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=layout, **options)


def _seal(source: str, of_arrays: dict[str, int], place: Any) -> str:
    """Over the small files of a checkpoint, which have no digests."""
    content = json.loads(json.dumps([source, of_arrays, place]))  # as it will be read again
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _differing(expected: dict[str, int] | None, found: dict[str, int]) -> str | None:
    """None where the digests agree, or where none were saved."""
    if expected is None or expected == found:
        return None
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"{len(names)} of {len(expected)} arrays differ from what was saved, {names[0]} for one"
