"""Entries of files -> drafts, and which of a release's files are there."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Rows, Skip, Stream
from instructblip_jax.datasets.readers.fields import Bad, Row, counted
from instructblip_jax.datasets.readers.json_files import Entry


class Elsewhere:
    """Yielded for a row of another split."""


Made = tuple[Record, tuple[Media, ...]] | Bad | Elsewhere
"""A record and its media, or what is wrong with one of several in a row."""


def drafts(
    entries: Iterable[Entry],
    make: Callable[[Row], Iterable[Made]],
    stands_for: Callable[[Row], int] = lambda row: 1,
) -> Stream:
    """The drafts that ``make`` takes out of each entry's row, a `Skip` where it raises or yields `Bad`.

    ``stands_for``: the rows of the source that are in an entry's row. The first draft or skip of an entry stands for
    all of them. An entry of which ``make`` yields nothing is lost, which the shard writer tells.
    """
    held = 0
    for where, entry in entries:
        where = where.encode("utf-8", "replace").decode()  # a key may hold what cannot be printed
        rows = stands_for(entry) if isinstance(entry, Mapping) else 1
        held += rows
        try:
            if isinstance(entry, Bad):
                raise entry
            if not isinstance(entry, Mapping):
                raise Bad("not an object")
            for made in make(entry):
                if isinstance(made, Elsewhere):
                    held -= rows
                elif isinstance(made, Bad):
                    yield Skip(where, made.reason, made.detail, rows)
                else:
                    yield Draft(where, *made, rows=rows)
                rows = 0
        except Bad as bad:
            yield Skip(where, bad.reason, bad.detail, rows)
    return held


def keyed(entries: Iterable[tuple[str, str, Any]], name: str) -> Iterator[Entry]:
    """Members of an object as rows that hold their key as the field ``name``."""
    for where, key, row in entries:
        yield where, {**row, name: key} if isinstance(row, Mapping) else row


def training(split: str) -> bool:
    """Whether a split is trained on, so that rows without an answer are of no use."""
    return split.rsplit("/", 1)[-1].startswith("train")


def judged(references: Sequence[str]) -> dict[str, Any]:
    """The fields of a `Record` that come from all annotators' answers. Raises Bad if none says anything."""
    answers, weights = counted(references)
    if not answers:
        raise Bad("empty answer")
    return {"answers": answers, "weights": weights, "references": tuple(references)}


def find(source: Path, *names: str) -> Path | None:
    """The first of the files ``names`` in the source; the source itself, if it is a file of one of these names."""
    if source.is_file():
        return source if source.name in {name.rsplit("/", 1)[-1] for name in names} else None
    return next((path for name in names if (path := source / name).is_file()), None)


def places(name: str) -> tuple[str, ...]:
    """Where a copy from LAVIS may lie in a source: in itself, in lavis/ or in annotations/."""
    return name, f"lavis/{name}", f"annotations/{name}"


def some(splits: Mapping[str, Rows], source: Path, *names: str) -> Mapping[str, Rows]:
    """``splits``, if there are any. Raises FileNotFoundError naming the files that would have made one."""
    if not splits:
        raise FileNotFoundError(f"{source}: none of the files that were looked for is here: {', '.join(names)}")
    return splits
