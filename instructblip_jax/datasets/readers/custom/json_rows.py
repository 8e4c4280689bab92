"""Streams the rows of JSON files: one object per line, or one list."""

import contextlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from instructblip_jax.datasets.draft import Reading, Skip
from instructblip_jax.datasets.readers import json_files
from instructblip_jax.datasets.readers.custom.own_row import COLUMNS, OwnRow, OwnRows, made
from instructblip_jax.datasets.readers.custom.splits import of_name
from instructblip_jax.datasets.readers.custom.text import opened
from instructblip_jax.datasets.readers.fields import BadRow
from instructblip_jax.datasets.readers.json_text import Decoder

ROWS = "annotations"
"""The key of the rows in a file with one object."""
CHUNK = 1 << 18
"""Characters per read."""
Item = tuple[str, int, dict[str, Any]]
"""Location, number and the object itself."""


def objects(path: Path, encoding: str | None, lines: bool) -> Generator[Item | Skip, None, int]:
    """The objects of a file, one per line or in one list, numbered from 1. The generator returns their number."""
    held = 0
    for where, number, value in _lines(path, encoding) if lines else _items(path, encoding):
        held += 1
        if isinstance(value, Skip):
            yield value
        elif isinstance(value, dict):
            yield where, number, value
        else:
            yield Skip(where, "not a JSON object", f"{type(value).__name__} {str(value)[:60]!r}")
    return held


def rows(
    path: Path,
    encoding: str | None,
    lines: bool,
    columns: Mapping[str, tuple[str, ...]] = COLUMNS,
    split: str | None = None,
) -> OwnRows:
    """The rows of a file whose objects have the columns of ``columns``, as in LAVIS's lists."""
    split = split or of_name(path)
    items = objects(path, encoding, lines)
    return (
        yield from each(items, lambda where, number, fields: made(where, number, fields, path.parent, split, columns))
    )


def each(items: Generator[Item | Skip, None, int], row: Callable[[str, int, dict[str, Any]], OwnRow | Skip]) -> OwnRows:
    """The rows made from the objects by ``row``; a `Skip` is passed on."""
    found = Reading(items)
    for item in found:
        yield item if isinstance(item, Skip) else row(*item)
    return found.held or 0


def _lines(path: Path, encoding: str | None) -> Iterator[tuple[str, int, Any]]:
    with opened(path, encoding) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if line.strip(" \t\r\n\ufeff\0"):
                yield where, number, parse(line.rstrip("\r\n"), where)


def parse(text: str, where: str) -> Any:
    """One JSON value, or a `Skip` with the error."""
    try:
        return _or_skip(Decoder().only(text), where)
    except json.JSONDecodeError as error:
        excerpt = text[max(0, error.pos - 40) : error.pos + 40].strip()
        return Skip(where, "broken JSON", f"column {error.colno}: {error.msg}: {excerpt!r}")
    except (ValueError, RecursionError) as error:  # a number with too many digits, nesting that is too deep
        return Skip(where, "broken JSON", str(error)[:80])


def _or_skip(value: Any, where: str) -> Any:
    return Skip(where, value.reason, value.detail) if isinstance(value, BadRow) else value


def _items(path: Path, encoding: str | None) -> Iterator[tuple[str, int, Any]]:
    """The elements of a file that is a list, or of the list ``annotations`` of a file that is an object."""
    found = 0
    for keys in ((), (ROWS,)):
        for found, value in enumerate(within(path, encoding, *keys), 1):
            where = f"{path}:{found}"
            yield where, found, _or_skip(value, where)
        if found:
            return


def within(path: Path, encoding: str | None, *keys: str) -> Iterator[Any]:
    """The elements of the list under ``keys`` of a JSON document; none if there is no list.

    An unreadable element is a `BadRow`. Raises ValueError if the file is broken.
    """
    with opened(path, encoding) as file, contextlib.suppress(json_files.Absent):
        for _, value in json_files.elements(path, *keys, text=_pieces(file)):
            yield value


def field(path: Path, encoding: str | None, key: str) -> Any:
    """The value of a top-level key of a JSON document; None if it is missing."""
    with opened(path, encoding) as file, contextlib.suppress(json_files.Absent):
        return json_files.value(path, key, text=_pieces(file))
    return None


def names(path: Path, encoding: str | None) -> Iterator[str]:
    """The top-level keys of a file that is one JSON object, in order."""
    with opened(path, encoding) as file:
        yield from json_files.names(path, _pieces(file))


def _pieces(file: IO[str]) -> Iterator[str]:
    """The text in pieces, without the byte order mark that an explicit --encoding=utf-8 leaves."""
    text = file.read(CHUNK).removeprefix("\ufeff")
    while text:
        yield text
        text = file.read(CHUNK)


def first(path: Path, encoding: str | None, *keys: str) -> Any:
    """The first element of the list under ``keys``; None if there is none."""
    return next(within(path, encoding, *keys), None)
