"""Converts the rows of source files to drafts, and finds the files of a release."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Rows, Skip, Stream
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, counted
from instructblip_jax.datasets.readers.json_files import Entry


class OtherSplit:
    """Yielded for a row that belongs to another split."""


Made = tuple[Record, tuple[Media, ...]] | tuple[Record, tuple[Media, ...], tuple[str, ...]] | BadRow | OtherSplit
"""A record, its media, and notes, if any (see `Draft`); or, if a row has several, the error of one of them."""


def drafts(
    entries: Iterable[Entry],
    make: Callable[[SourceRow], Iterable[Made]],
    stands_for: Callable[[SourceRow], int] = lambda row: 1,
) -> Stream:
    """The drafts that ``make`` yields for each entry's row, and a `Skip` wherever it raises or yields `BadRow`.

    Args:
      stands_for: the number of source rows that an entry's row covers. The first draft or skip of an entry accounts
        for all of them. If ``make`` yields nothing for an entry, its rows are lost, and the shard writer reports that.
    """
    held = 0
    for where, entry in entries:
        where = where.encode("utf-8", "replace").decode()  # a key may hold lone surrogates
        rows = stands_for(entry) if isinstance(entry, Mapping) else 1
        held += rows
        try:
            if isinstance(entry, BadRow):
                raise entry
            if not isinstance(entry, Mapping):
                raise BadRow("not an object")
            for made in make(entry):
                if isinstance(made, OtherSplit):
                    held -= rows
                elif isinstance(made, BadRow):
                    yield Skip(where, made.reason, made.detail, rows)
                else:
                    record, media, *notes = made
                    yield Draft(where, record, media, rows, *notes)
                rows = 0
        except BadRow as bad:
            yield Skip(where, bad.reason, bad.detail, rows)
    return held


def numbered(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The rows of a file, each with its index, from 0, in the field ``number``."""
    for number, (where, row) in enumerate(entries):
        yield where, {**row, "number": number} if isinstance(row, Mapping) else row


def keyed(entries: Iterable[tuple[str, str, Any]], name: str) -> Iterator[Entry]:
    """The members of a JSON object as rows, each with its key in the field ``name``."""
    for where, key, row in entries:
        yield where, {**row, name: key} if isinstance(row, Mapping) else row


def training(split: str) -> bool:
    """True for a training split, in which rows without an answer are useless."""
    return split.rsplit("/", 1)[-1].startswith("train")


def answer_fields(references: Sequence[str]) -> dict[str, Any]:
    """The fields of a `Record` with all annotators' answers. Raises BadRow if every answer is empty."""
    answers, weights = counted(references)
    if not answers:
        raise BadRow("empty answer")
    return {"answers": answers, "weights": weights, "references": tuple(references)}


def find(source: Path, *names: str) -> Path | None:
    """The first of the files ``names`` in the source. A source that is itself a file must have one of these names."""
    if source.is_file():
        return source if source.name in {name.rsplit("/", 1)[-1] for name in names} else None
    return next((path for name in names if (path := source / name).is_file()), None)


def places(name: str) -> tuple[str, ...]:
    """The paths within a source where a file may be: the source itself, lavis/ and annotations/."""
    return name, f"lavis/{name}", f"annotations/{name}"


def nonempty(splits: Mapping[str, Rows], source: Path, *names: str) -> Mapping[str, Rows]:
    """``splits`` unchanged. Raises FileNotFoundError, naming the expected files, if it is empty."""
    if not splits:
        raise FileNotFoundError(f"{source}: found none of the expected files: {', '.join(names)}")
    return splits
