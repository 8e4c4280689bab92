"""Rows of JSON files: an object a line, or one list; read as a stream."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ijson

from instructblip_jax.data.draft import Skip
from instructblip_jax.data.readers.custom.row import COLUMNS, Row, canonical
from instructblip_jax.data.readers.custom.splits import of_name
from instructblip_jax.data.readers.custom.text import Utf8, opened

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
    for number, value in enumerate(within(path, encoding, "item"), 1):
        yield f"{path}:{number}", number, value


def within(path: Path, encoding: str | None, prefix: str) -> Iterator[Any]:
    """The values at a place of one JSON document, such as "annotations.item". Raises ValueError where it is broken."""
    with opened(path, encoding) as file:
        try:
            yield from ijson.items(_bytes(file), prefix, use_float=True)
        except (ijson.JSONError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}: broken JSON: {' '.join(str(error).split())[:160]}") from error


def keys(path: Path, encoding: str | None) -> Iterator[str]:
    """The names at the top of one JSON object, as they come."""
    with opened(path, encoding) as file:
        try:
            for prefix, event, value in ijson.parse(_bytes(file), use_float=True):
                if prefix == "" and event == "map_key":
                    yield value
        except (ijson.JSONError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}: broken JSON: {' '.join(str(error).split())[:160]}") from error


def _bytes(file: Any) -> Utf8:
    """Without the mark that an explicit --encoding=utf-8 leaves."""
    if file.read(1) != "\ufeff":
        file.seek(0, io.SEEK_SET)
    return Utf8(file)


def first(path: Path, encoding: str | None, prefixes: Sequence[str]) -> Any:
    """The first value that one of these places has; None where none has."""
    for prefix in prefixes:
        for value in within(path, encoding, prefix):
            return value
    return None
