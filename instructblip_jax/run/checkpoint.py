"""Checkpoints of a run: the train state and the position in the data, but not the frozen parameters.

Each checkpoint contains a fingerprint of the model directory with the frozen parameters, so that it is never restored
onto another model. It also contains digests of its arrays: a damaged checkpoint is detected and skipped, and the
previous one is used.
"""

import hashlib
import json
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from instructblip_jax import digests, distributed
from instructblip_jax.convert.shards import weight_files
from instructblip_jax.mesh import pieces
from instructblip_jax.train.step import Arrays, TrainState

Place = Mapping[str, Any]
"""The state of a run apart from its arrays, as JSON: "iterator", the position in the data; "sets", set -> digest of its
records; "window", the sums since the last logged step. The first version had only "iterator"."""

_ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="alone")
"""Reading by process 0 without the others."""

_EDGE = 1 << 20  # bytes read at either end of a weight file, so that 16 GB are not read again to compare two models


_READ_BYTES = 1 << 30
"""Maximum bytes of arrays that are read together for checking, because a trained language model does not fit on a
host."""


def fingerprint(directory: Path) -> str:
    """A digest of a model directory: of its config.json, and of the size, first and last MiB of each weight file."""
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
    """SHA-256 of the trained parameters, paths and float32 bytes, in the order of the paths. All hosts must call it.

    One array is in memory at a time; of a stack that is sharded over several hosts, one layer.
    """
    digest = hashlib.sha256()
    for path in sorted(train):
        digest.update(path.encode())
        for piece in pieces(train[path]):
            digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints in ``directory``. Orbax commits by renaming, so half-written ones are never seen.

    A damaged checkpoint is skipped with a message, and deleted only just before a new one replaces it.
    """

    def __init__(self, directory: epath.Path, *, keep: int | None = None):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        handlers = {"state": _arrays(), "data": ocp.JsonCheckpointHandler(), "source": ocp.JsonCheckpointHandler()}
        self.directory = directory
        self.manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._damaged: list[int] = []

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending, damaged ones included."""
        return sorted(self.manager.all_steps())

    def newest(self, *, only: str | None = None) -> int | None:
        """The newest undamaged step, or None without any checkpoint. Prints the skipped ones and the reasons.

        ``only``: check only this part of the state ("train"). Process 0 checks, and all processes get its result.
        Raises ValueError if all checkpoints are damaged; nothing is deleted.
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
        """Raise ValueError if the checkpoint of ``step`` is damaged."""
        chosen, reasons = self._first_whole([step], only)
        if chosen is None:
            raise ValueError(f"{self.directory}: damaged: {reasons[0]}; choose another of the steps {self.steps()}")

    def save(self, step: int, state: TrainState, place: Place, source: str) -> None:
        """Write in the background; returns as soon as the arrays may be donated again.

        ``source``: the `fingerprint` of the model. Damaged checkpoints that `newest` skipped are deleted first, because
        they would count as kept checkpoints.
        """
        for damaged in self._damaged:
            if jax.process_index() == 0:
                print(f"{self.directory}/{damaged}: damaged, deleted; step {step} is written now", flush=True)
            self.manager.delete(damaged)
        self._damaged = []
        parts = _with_arrays(state)
        of_arrays = digests.of_devices(parts)
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(parts),
            data=ocp.args.JsonSave(dict(place)),
            source=ocp.args.JsonSave(
                {"fingerprint": source, "digests": of_arrays, "seal": _seal(source, of_arrays, place)}
            ),
        )
        self.manager.save(step, args=args)

    def restore(self, step: int, state: TrainState, source: str) -> TrainState:
        """The state of ``step``, sharded like ``state``, on any number of devices and processes.

        Raises ValueError if the checkpoint belongs to another model, or has other trained parameters.
        """
        saved = self._check_source(step, source)
        parts = _with_arrays(state)
        self._check_paths(step, saved, {"train": state["train"], "memory": state["memory"]})
        restored = self.manager.restore(step, args=ocp.args.Composite(state=_laid_out(parts)))["state"]
        changed = _differing(saved.get("digests"), digests.of_devices(restored))
        if changed:
            raise ValueError(
                f"{self.directory}/{step}: was whole, but on the second reading {changed}; start the command again"
            )
        return typing.cast(TrainState, {**state, **restored})

    def place(self, step: int) -> Place:
        """The position in the data, the sets and the log's window after ``step``."""
        return self.manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]

    def check_sets(self, step: int, sets: Mapping[str, str]) -> None:
        """Raise ValueError if ``sets`` (name -> digest of its records) are not those that ``step`` was trained on."""
        known = self.place(step).get("sets")
        if known is None:
            if jax.process_index() == 0:
                print(f"{self.directory}/{step}: written by an earlier version, which did not record its data")
            return
        changed = sorted(name for name, digest in sets.items() if known.get(name, digest) != digest)
        if changed:
            raise ValueError(
                f"{self.directory}/{step}: trained on other records than {', '.join(changed)} holds now; "
                "was it prepared again? Restore its former records, or train from the start in another --workdir"
            )

    def restore_train(self, step: int, train: Arrays, source: str) -> Arrays:
        """Only the trained parameters of ``step``, sharded like ``train``. Raises as `restore` does."""
        self._check_paths(step, self._check_source(step, source), {"train": train})
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

    def _check_paths(self, step: int, saved: Mapping[str, Any], parts: Mapping[str, Arrays]) -> None:
        """Raise ValueError unless the checkpoint has the arrays of ``parts``, and no others in these parts."""
        names = saved.get("digests") or _names(_arrays().metadata(self.directory / str(step) / "state").tree)
        for part, arrays in parts.items():
            here, there = {f"{part}/{path}" for path in arrays}, {x for x in names if x.startswith(f"{part}/")}
            found = {"only in the checkpoint": sorted(there - here), "only in this run": sorted(here - there)}
            differing = [f"{where}: {', '.join(paths[:3])}" for where, paths in found.items() if paths]
            if differing:
                raise ValueError(
                    f"{self.directory}/{step}: trained other parameters than this run would ({'; '.join(differing)}); "
                    "give the config.trainable of that run, or train from the start in another --workdir"
                )

    def _first_whole(self, steps: list[int], only: str | None) -> tuple[int | None, list[str]]:
        """The first undamaged one of ``steps``, and the damage of those before it.

        Only process 0 reads, because a process that failed in a collective read would leave the others waiting.
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
        """The damage of the checkpoint of ``step``, or None."""
        try:
            saved, data = self._read_json(step, "source"), self._read_json(step, "data")
            found = self._digests(step, only)
            if "digests" not in saved:  # written by a version without digests
                return None
            # The first version had only the position, and its seal covers that.
            sealed = data["iterator"] if data.keys() == {"iterator"} else data
            if saved["seal"] != _seal(saved["fingerprint"], saved["digests"], sealed):
                return "its data position or its digests differ from what was saved"
            expected = {
                name: value for name, value in saved["digests"].items() if only is None or name.startswith(f"{only}/")
            }
            return _differing(expected, found)
        except Exception as error:  # a damaged file may raise anything
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"

    def _read_json(self, step: int, item: str) -> dict[str, Any]:
        handler = ocp.JsonCheckpointHandler(multiprocessing_options=_ALONE)
        with ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as reader:
            return reader.restore(self.directory / str(step) / item)

    def _digests(self, step: int, only: str | None) -> dict[str, int]:
        """The digests of the stored state, or of a part of it, some arrays at a time (see `_READ_BYTES`)."""
        path = self.directory / str(step) / "state"
        handler = _arrays(multiprocessing_options=_ALONE)
        found: dict[str, int] = {}
        with ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as reader:
            tree = handler.metadata(path).tree  # the reader's own metadata() hides the reason of a failure
            leaves, form = jax.tree.flatten(tree)
            names = _names(tree)
            on_host = jax.tree.unflatten(form, [ocp.RestoreArgs(restore_type=np.ndarray)] * len(leaves))
            wanted = [n for n, name in enumerate(names) if only is None or name.startswith(f"{only}/")]
            for group in _groups(wanted, [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves]):
                asked = [leaf if n in group else ocp.PLACEHOLDER for n, leaf in enumerate(leaves)]
                args = ocp.args.PyTreeRestore(jax.tree.unflatten(form, asked), restore_args=on_host)
                read = jax.tree.leaves(reader.restore(path, args=args))
                found |= digests.of_host({names[n]: read[n] for n in group})
        return found

    def close(self) -> None:
        """Wait until everything is written."""
        self.manager.wait_until_finished()
        self.manager.close()


def _arrays(**options: Any) -> ocp.PyTreeCheckpointHandler:
    """A handler of plain arrays: it stores neither shardings nor the data that only random keys need."""
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler(enable_write_sharding_file=False)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, **options)


def _with_arrays(state: TrainState) -> dict[str, Any]:
    """The parts of the state with arrays: without memory, the format is that of earlier versions, which had none."""
    return {name: part for name, part in state.items() if jax.tree.leaves(part)}


def _groups(numbers: Iterable[int], sizes: Sequence[int]) -> list[list[int]]:
    """Indices of arrays in groups of at most `_READ_BYTES`, or of one array."""
    groups: list[list[int]] = [[]]
    for n in numbers:
        if groups[-1] and sum(sizes[m] for m in groups[-1]) + sizes[n] > _READ_BYTES:
            groups.append([])
        groups[-1].append(n)
    return groups


def _names(tree: Any) -> list[str]:
    """The paths of all arrays, as `digests` names them."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def _laid_out(tree: Any, **options: Any) -> ocp.args.PyTreeRestore:
    """Arguments to restore with the shapes and shardings of ``tree``."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
    layout = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=layout, **options)


def _seal(source: str, of_arrays: dict[str, int], place: Any) -> str:
    """SHA-256 of the small files of a checkpoint, which have no digests."""
    content = json.loads(json.dumps([source, of_arrays, place]))  # in the form in which it is read
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _differing(expected: dict[str, int] | None, found: dict[str, int]) -> str | None:
    """The difference in words, or None if the digests agree or none were saved."""
    if expected is None or expected == found:
        return None
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"{len(names)} of {len(expected)} arrays differ from what was saved, among them {names[0]}"
