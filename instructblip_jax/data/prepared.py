"""Prepared datasets: TFDS datasets in ArrayRecord files, read without TensorFlow."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import tensorflow_datasets as tfds

from instructblip_jax import files
from instructblip_jax.data.places import (
    MEDIA,
    OLDER,
    PICTURES,
    RECORD,
    REPORT,
    SUFFIX,
    VERSION,
    VOCABULARY,
    directory_of,
    is_prepared,
    on_disk,
    other_versions,
)
from instructblip_jax.data.record import BLANK, IMAGE, Kinds, Record

__all__ = ["Records", "Source", "directory_of", "is_prepared", "open_set", "sizes"]
_EDGE = 1 << 16  # bytes at either end of a file that identify it
T = TypeVar("T")
_PART = 256  # records per task of `each`


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's progress bars and messages, which ours replace."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)


class _Encoded(tfds.decode.SkipDecoding):
    """Leave media encoded, also in sequences."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example


@dataclasses.dataclass(frozen=True)
class Shown:
    """The kinds of media in records: those of record n are ``kinds[numbers[n]]``; ``numbers`` is int64 [N]."""

    kinds: tuple[Kinds, ...]
    numbers: np.ndarray

    def of(self, record: int) -> Kinds:
        """The kinds of a record."""
        return self.kinds[self.numbers[record]]

    @property
    def order(self) -> np.ndarray:
        """int64 [N]: the rank of each record's kinds, those with fewer media first."""
        ranks = np.empty(len(self.kinds), np.int64)
        ranks[sorted(range(len(ranks)), key=lambda n: by_number(self.kinds[n]))] = np.arange(len(ranks))
        return ranks[self.numbers]

    def grouped(self, of: Callable[[Kinds], Kinds]) -> "Shown":
        """The same with the kinds mapped by ``of``."""
        kinds = list(map(of, self.kinds))
        known = tuple(dict.fromkeys(kinds))
        return Shown(known, np.array([known.index(one) for one in kinds], np.int64)[self.numbers])

    @classmethod
    def listed(cls, kinds: Iterator[Kinds]) -> "Shown":
        """From the kinds of each record, in order."""
        known: dict[Kinds, int] = {}
        numbers = np.fromiter((known.setdefault(one, len(known)) for one in kinds), np.int64)
        return cls(tuple(known), numbers)

    @classmethod
    def joined(cls, parts: Sequence["Shown"]) -> "Shown":
        """From the parts of a longer sequence, one after the other."""
        kinds = tuple(dict.fromkeys(one for part in parts for one in part.kinds))
        places = [np.array([kinds.index(one) for one in part.kinds], np.int64) for part in parts]
        return cls(kinds, np.concatenate([own[part.numbers] for own, part in zip(places, parts, strict=True)]))


def by_number(kinds: Kinds) -> tuple[int, Kinds]:
    """The sort key of kinds: those with fewer media first."""
    return len(kinds), kinds


class Records(Sequence[Record]):
    """Records by index; a negative index counts from the end, and a slice is a list."""

    def record(self, index: int) -> Record:
        """The record with this index, in 0..len-1."""
        raise NotImplementedError

    @property
    def shown(self) -> Shown:
        """The kinds of media in each record."""
        raise NotImplementedError

    def shown_as(self, of: Callable[[Kinds], Kinds]) -> Shown:
        """See the function `shown_as`."""
        return self.shown.grouped(of)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        numbers = range(len(self))
        return [self.record(n) for n in numbers[index]] if isinstance(index, slice) else self.record(numbers[index])


def each(records: Sequence[Record], of: Callable[[Record], T]) -> Iterator[T]:
    """``of`` applied to every record, in order; several threads read them."""

    def part(start: int) -> list[T]:
        return [of(records[n]) for n in range(start, min(start + _PART, len(records)))]

    with ThreadPoolExecutor() as pool:
        for found in pool.map(part, range(0, len(records), _PART)):
            yield from found


def media_shown(records: Sequence[Record]) -> Shown:
    """`Records.shown` of any sequence of records."""
    return records.shown if isinstance(records, Records) else _looked_up(records)


def shown_as(records: Sequence[Record], of: Callable[[Kinds], Kinds]) -> Shown:
    """``of`` applied to the kinds of each record's media, () for none; no record is read if all are the same."""
    return records.shown_as(of) if isinstance(records, Records) else _held(records).grouped(of)


def _held(records: Sequence[Record]) -> Shown:
    return Shown.listed(each(records, lambda record: tuple(medium.kind for medium in record.media)))


def _looked_up(records: Sequence[Record]) -> Shown:
    return Shown.listed(each(records, lambda record: record.kinds))


@dataclasses.dataclass(frozen=True)
class Source(Records):
    """Random access to the records of a prepared split, as a Grain data source."""

    directory: Path
    split: str

    def __post_init__(self) -> None:
        if not (self.directory / "dataset_info.json").is_file():
            raise _not_there(self.directory)
        with _quiet():
            builder = tfds.builder_from_directory(str(self.directory))
            split = on_disk(self.split)
            if split not in builder.info.splits:
                raise ValueError(
                    f"{self.directory}: has no split {self.split!r}; it has {', '.join(builder.info.splits)}"
                )
            field = PICTURES if self.directory.name == OLDER else MEDIA
            data = builder.as_data_source(split, decoders={field: _Encoded()})
            object.__setattr__(self, "_data", data)
            object.__setattr__(self, "_field", field)

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[attr-defined]

    @functools.cached_property
    def _report(self) -> Mapping[str, Any]:
        """The split's part of the set's report."""
        splits = files.read_json(self.directory / REPORT)["splits"].values()
        return next(split for split in splits if split["files"] == on_disk(self.split))

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the split's records and their order, independent of the location; computed when they were
        written.

        A set written by an earlier version has none: the sizes and both ends of its files are used instead.
        """
        if found := self._report.get("digest"):
            return found
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(self.directory.glob(f"*-{on_disk(self.split)}{SUFFIX}-*")):
            update_by_ends(digest, path)
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """A digest of the files of the split's set: their names, sizes and both ends."""
        return _identity((self,))

    @functools.cached_property
    def shown(self) -> Shown:
        """See `Records`. Every record is read unless the report says that all records have the same kinds."""
        return self._told(lambda kinds: kinds or BLANK) or _looked_up(self)

    def shown_as(self, of: Callable[[Kinds], Kinds]) -> Shown:
        """See the function `shown_as`."""
        return self._told(of) or _held(self).grouped(of)

    def _told(self, of: Callable[[Kinds], Kinds]) -> Shown | None:
        """``of`` applied to the kinds of all records, if according to the report it is the same for each; else None."""
        kinds = kinds_counted(self._report)
        shown = set(map(of, kinds))
        if not kinds and self._report["pictures"] <= 1:  # the report of an early version
            shown = {of(BLANK)}
        return Shown(tuple(shown), np.zeros(len(self), np.int64)) if len(shown) == 1 else None

    def record(self, index: int) -> Record:
        """See `Records`. Raises ValueError for a record that is damaged."""
        try:
            example = self._data[index]  # type: ignore[attr-defined]
            return Record.from_json(example[RECORD], example[self._field])  # type: ignore[attr-defined]
        except (RuntimeError, TypeError, KeyError, ValueError) as error:  # all mean corruption
            raise ValueError(
                f"{self.directory}: record {index} of {self.split} is corrupt ({error}); remove the set and prepare it"
            ) from error


def kinds_counted(report: Mapping[str, Any]) -> dict[Kinds, int]:
    """From a split's part of report.json: the kinds of media -> the number of records with exactly these.

    Reports of `OLDER` sets count images; the earliest of them do not, and give {}.
    """
    pictures = {(IMAGE,) * int(number): count for number, count in report.get("by_pictures", {}).items()}
    return pictures | {tuple(kinds.split()): count for kinds, count in report.get("by_kinds", {}).items()}


def _not_there(directory: Path) -> Exception:
    """The error for a set that is not prepared."""
    name, out = directory.parent.name, directory.parent.parent
    if others := other_versions(directory):
        return ValueError(
            f"{directory.parent}: holds the set in version {', '.join(others)}, and versions {VERSION} and {OLDER} are "
            f"read here; `instructblip prepare {name} --out {out}` with the set's source writes {VERSION} beside it"
        )
    found = {
        path.parent.parent.name for version in (VERSION, OLDER) for path in out.glob(f"*/{version}/dataset_info.json")
    }
    return FileNotFoundError(
        f"{directory}: no such prepared set; {out} holds {', '.join(sorted(found)) or 'none'}, "
        f"and `instructblip prepare NAME --out {out}` writes more"
    )


@dataclasses.dataclass(frozen=True)
class Joined(Records):
    """Several splits of a set, one after the other."""

    parts: tuple[Source, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def digest(self) -> str:
        """A digest of the records and their order; see `Source.digest`."""
        return "+".join(part.digest for part in self.parts)

    @property
    def identity(self) -> str:
        """A digest of the files of the splits; see `Source.identity`."""
        return _identity(self.parts)

    @functools.cached_property
    def shown(self) -> Shown:
        """See `Records`."""
        return Shown.joined([part.shown for part in self.parts])

    def shown_as(self, of: Callable[[Kinds], Kinds]) -> Shown:
        """See the function `shown_as`."""
        return Shown.joined([part.shown_as(of) for part in self.parts])

    def record(self, index: int) -> Record:
        """See `Records`."""
        for part in self.parts:
            if index < len(part):
                return part.record(index)
            index -= len(part)
        raise IndexError(index)


def _identity(parts: Sequence[Source]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{part.directory.parent.name} {part.split}\n".encode())
        for path in sorted(path for path in part.directory.iterdir() if path.is_file()):
            update_by_ends(digest, path)
    return digest.hexdigest()


def update_by_ends(digest: Any, path: Path) -> None:
    """Add a file to a `hashlib` digest by its name, its size and both its ends."""
    size = path.stat().st_size
    digest.update(f"{path.name} {size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        digest.update(file.read(_EDGE))


def sizes(out: str | Path, name: str) -> dict[str, int]:
    """The splits of a prepared set -> their numbers of records."""
    splits = tfds.builder_from_directory(str(directory_of(out, name))).info.splits
    return {split: info.num_examples for split, info in splits.items()}


def split_of(name: str, default: str) -> tuple[str, str]:
    """ "gqa:train_balanced" -> ("gqa", "train_balanced"); a bare name has the split ``default``."""
    bare, _, split = name.partition(":")
    return bare, split or default


def vocabulary(out: str | Path, name: str) -> list[str]:
    """The answers to be ranked for a set evaluated with a vocabulary. Raises FileNotFoundError if there are none."""
    path = directory_of(out, name) / VOCABULARY
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no vocabulary; `instructblip prepare {name}` writes it where the set has one")
    return json.loads(path.read_text(encoding="utf-8"))


def open_set(out: str | Path, name: str, split: str) -> Source | Joined:
    """The prepared split of a set, by its official name or its name in files; "train+val" means both.

    Raises FileNotFoundError or ValueError naming the directory.
    """
    parts = tuple(Source(directory_of(out, name), part) for part in split.split("+"))
    return parts[0] if len(parts) == 1 else Joined(parts)
