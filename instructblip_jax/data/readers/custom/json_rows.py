"""Rows of JSON files: an object a line, or one list; read as a stream."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from instructblip_jax.data.draft import Skip
from instructblip_jax.data.readers import json_files
from instructblip_jax.data.readers.custom.row import COLUMNS, Row, canonical
from instructblip_jax.data.readers.custom.splits import of_name
from instructblip_jax.data.readers.custom.text import opened

CHUNK = 1 << 18
"""Characters read at once."""
Item = tuple[str, int, dict[str, Any]]
"""Where an object stands, its number, the object."""


def objects(path: Path, encoding: str | None, lines: bool) -> Iterator[Item | Skip]:
    """The objects of a file, one a line or in one list, with line or item numbers from 1."""
    for where, number, value in _lines(path, encoding) if lines else _items(path, encoding):
        if isinstance(value, Skip):
            yield value
        elif isinstance(value, dict):
            yield where, number, value
        else:
            yield Skip(where, "no JSON object", f"{type(value).__name__} {str(value)[:60]!r}")


def rows(
    path: Path,
    encoding: str | None,
    lines: bool,
    columns: Mapping[str, tuple[str, ...]] = COLUMNS,
    split: str | None = None,
) -> Iterator[Row | Skip]:
    """Objects with the own format's columns. LAVIS's lists have them, too."""
    for item in objects(path, encoding, lines):
        if isinstance(item, Skip):
            yield item
            continue
        where, number, fields = item
        yield Row(where, number, canonical(fields, where, columns), path.parent, split or of_name(path))


def _lines(path: Path, encoding: str | None) -> Iterator[tuple[str, int, Any]]:
    with opened(path, encoding) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if line.strip(" \t\r\n\ufeff\0"):
                yield where, number, parse(line.rstrip("\r\n"), where)


def parse(text: str, where: str) -> Any:
    """One JSON value, or the `Skip` that tells what is wrong with it."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        excerpt = text[max(0, error.pos - 40) : error.pos + 40].strip()
        return Skip(where, "broken JSON", f"column {error.colno}: {error.msg}: {excerpt!r}")
    except (ValueError, RecursionError) as error:  # numbers without end, lists within lists
        return Skip(where, "broken JSON", str(error)[:80])


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _items(path: Path, encoding: str | None) -> Iterator[tuple[str, int, Any]]:
    for number, value in enumerate(within(path, encoding), 1):
        yield f"{path}:{number}", number, value


def within(path: Path, encoding: str | None, *keys: str) -> Iterator[Any]:
    """The elements of the list at a place of one JSON document; none where there is no list.

    Raises ValueError where the file is broken.
    """
    with opened(path, encoding) as file, contextlib.suppress(json_files.Absent):
        for _, value in json_files.elements(path, *keys, text=_pieces(file)):
            yield value


def field(path: Path, encoding: str | None, key: str) -> Any:
    """A value at the top of one JSON document; None where it has none."""
    with opened(path, encoding) as file, contextlib.suppress(json_files.Absent):
        return json_files.value(path, key, text=_pieces(file))
    return None


def names(path: Path, encoding: str | None) -> Iterator[str]:
    """The names at the top of one JSON object, as they come."""
    with opened(path, encoding) as file:
        yield from json_files.names(path, _pieces(file))


def _pieces(file: IO[str]) -> Iterator[str]:
    """A text in parts, without the mark that an explicit --encoding=utf-8 leaves."""
    text = file.read(CHUNK).removeprefix("\ufeff")
    while text:
        yield text
        text = file.read(CHUNK)


def first(path: Path, encoding: str | None, *keys: str) -> Any:
    """The first element of the list at a place; None where there is none."""
    return next(within(path, encoding, *keys), None)
