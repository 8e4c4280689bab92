"""Prepared sets: TFDS data sets in ArrayRecord files, written and read without TensorFlow."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import tensorflow_datasets as tfds

from instructblip_jax import files
from instructblip_jax.data.places import VERSION, directory_of, is_prepared, on_disk
from instructblip_jax.data.record import Record
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.datasets.prepare.finish import REPORT, VOCABULARY
from instructblip_jax.datasets.prepare.pool import Run, here
from instructblip_jax.datasets.prepare.shard import SUFFIX, Chunk, Item

__all__ = ["Records", "Source", "directory_of", "is_prepared", "open_set", "sizes", "write", "write_made"]
Make = Callable[[], Iterator[Record]]
_EDGE = 1 << 16  # bytes at either end of a file by which it is known
T = TypeVar("T")
_PART = 256  # records a task of `each`


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own bars and messages; ours say the same in a line."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)


def write(out: str | Path, name: str, splits: Mapping[str, Make]) -> dict[str, int]:
    """Write the set ``name`` (split -> maker of its records) under ``out``, in this process; split -> records.

    A set that is there already is left as it is. Raises ValueError where no split has a record.
    """
    return write_made(out, name, {split: partial(_portions, make) for split, make in splits.items()}, here)


def _portions(make: Make) -> Iterator[Chunk]:
    portion: list[Item] = []
    for record in make():
        portion.append(record)
        if len(portion) == shards.LARGEST:
            yield portion
            portion = []
    if portion:
        yield portion


def write_made(
    out: str | Path,
    name: str,
    splits: Mapping[str, shards.Chunks],
    run: Run,
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[str, int]:
    """`write`, where ``run`` has the shards written; ``progress`` is told the records of each."""
    options = shards.Options(progress=progress, say=lambda line: None)
    report = shards.write_chunks(out, name, splits, run, options)
    return {split: told.written for split, told in report.splits.items()}


class _Encoded(tfds.decode.SkipDecoding):
    """Pictures as they were stored, in sequences, too."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example


class Records(Sequence[Record]):
    """Records by number; a negative number counts from the end, and a slice is a list."""

    def record(self, index: int) -> Record:
        """The record number ``index``, which is in 0..len-1."""
        raise NotImplementedError

    @property
    def shown(self) -> np.ndarray:
        """int64 [records]: the pictures that each record shows; 1 for a record without any, which shows a blank one."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        numbers = range(len(self))
        return [self.record(n) for n in numbers[index]] if isinstance(index, slice) else self.record(numbers[index])


def each(records: Sequence[Record], of: Callable[[Record], T]) -> Iterator[T]:
    """``of`` every record, in order; several threads read them."""

    def part(start: int) -> list[T]:
        return [of(records[n]) for n in range(start, min(start + _PART, len(records)))]

    with ThreadPoolExecutor() as pool:
        for found in pool.map(part, range(0, len(records), _PART)):
            yield from found


def pictures_shown(records: Sequence[Record]) -> np.ndarray:
    """`Records.shown` of any sequence of records."""
    return records.shown if isinstance(records, Records) else _counted(records)


def _counted(records: Sequence[Record]) -> np.ndarray:
    return np.fromiter(each(records, lambda record: max(1, len(record.images))), np.int64, len(records))


@dataclasses.dataclass(frozen=True)
class Source(Records):
    """Random access to the records of a prepared split; what Grain reads."""

    directory: Path
    split: str

    def __post_init__(self) -> None:
        if not (self.directory / "dataset_info.json").is_file():
            out = self.directory.parent.parent
            there = sorted(path.parent.parent.name for path in out.glob(f"*/{VERSION}/dataset_info.json"))
            raise FileNotFoundError(
                f"{self.directory}: no such prepared set; {out} holds {', '.join(there) or 'none'}, "
                f"and `instructblip prepare NAME --out {out}` writes more"
            )
        with _quiet():
            builder = tfds.builder_from_directory(str(self.directory))
            split = on_disk(self.split)
            if split not in builder.info.splits:
                raise ValueError(
                    f"{self.directory}: has no split {self.split!r}; it has {', '.join(builder.info.splits)}"
                )
            decoders = {"images": _Encoded()}
            object.__setattr__(self, "_data", builder.as_data_source(split, decoders=decoders))

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[attr-defined]

    @functools.cached_property
    def _told(self) -> Mapping[str, Any]:
        """The split's part of the set's report."""
        splits = files.read_json(self.directory / REPORT)["splits"].values()
        return next(split for split in splits if split["files"] == on_disk(self.split))

    @property
    def frames(self) -> int:
        """Pictures that a record has at most, at least 1."""
        return max(1, self._told["pictures"])

    @functools.cached_property
    def digest(self) -> str:
        """Names the split's records and their order, wherever the set lies; it was made when they were written.

        A set that an earlier version wrote has none: the sizes and both ends of its files serve there.
        """
        if told := self._told.get("digest"):
            return told
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(self.directory.glob(f"*-{on_disk(self.split)}{SUFFIX}-*")):
            update_by_ends(digest, path)
        return digest.hexdigest()

    @functools.cached_property
    def shown(self) -> np.ndarray:
        """See `Records`. Where the report does not say that all records show as many, every record is read."""
        numbers = {max(1, int(number)) for number in self._told.get("by_pictures", {})}
        if self.frames == 1 or len(numbers) == 1:
            return np.full(len(self), self.frames)
        return _counted(self)

    def record(self, index: int) -> Record:
        """See `Records`. Raises ValueError for a record that is damaged."""
        try:
            example = self._data[index]  # type: ignore[attr-defined]
            return Record.from_json(example["record"], example["images"])
        except (RuntimeError, TypeError, KeyError, ValueError) as error:  # the reader tells corruption in several ways
            raise ValueError(
                f"{self.directory}: record {index} of {self.split} is corrupt ({error}); remove the set and prepare it"
            ) from error


@dataclasses.dataclass(frozen=True)
class Joined(Records):
    """Several splits of a set, one after the other."""

    parts: tuple[Source, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def frames(self) -> int:
        """Pictures that a record has at most, at least 1."""
        return max(part.frames for part in self.parts)

    @property
    def digest(self) -> str:
        """Names the records and their order; see `Source.digest`."""
        return "+".join(part.digest for part in self.parts)

    @functools.cached_property
    def shown(self) -> np.ndarray:
        """See `Records`."""
        return np.concatenate([part.shown for part in self.parts])

    def record(self, index: int) -> Record:
        """See `Records`."""
        for part in self.parts:
            if index < len(part):
                return part.record(index)
            index -= len(part)
        raise IndexError(index)


def update_by_ends(digest: Any, path: Path) -> None:
    """Add a file to a `hashlib` digest by its name, its size and both its ends."""
    size = path.stat().st_size
    digest.update(f"{path.name} {size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        digest.update(file.read(_EDGE))


def sizes(out: str | Path, name: str) -> dict[str, int]:
    """The splits of a prepared set -> their number of records."""
    splits = tfds.builder_from_directory(str(directory_of(out, name))).info.splits
    return {split: info.num_examples for split, info in splits.items()}


def split_of(name: str, default: str) -> tuple[str, str]:
    """ "gqa:train_balanced" -> ("gqa", "train_balanced"); a bare name has the split ``default``."""
    bare, _, split = name.partition(":")
    return bare, split or default


def vocabulary(out: str | Path, name: str) -> list[str]:
    """The answers that are ranked for a set that is judged by a vocabulary. Raises FileNotFoundError without them."""
    path = directory_of(out, name) / VOCABULARY
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no vocabulary; `instructblip prepare {name}` writes it where the set has one")
    return json.loads(path.read_text(encoding="utf-8"))


def open_set(out: str | Path, name: str, split: str) -> Source | Joined:
    """The prepared split of a set, by its official or its files' name; "train+val" is both.

    Raises FileNotFoundError or ValueError naming the directory.
    """
    parts = tuple(Source(directory_of(out, name), part) for part in split.split("+"))
    return parts[0] if len(parts) == 1 else Joined(parts)
