"""Rows of CSV and TSV files."""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.data.draft import Skip
from instructblip_jax.data.readers.custom.row import COLUMNS, FOLDER_COLUMNS, LISTS, Row, canonical
from instructblip_jax.data.readers.custom.splits import of_name
from instructblip_jax.data.readers.custom.text import opened

DELIMITERS = (",", ";", "\t", "|")
_KNOWN = {name for aliases in FOLDER_COLUMNS.values() for name in aliases} | {"file_name", "label"}


def delimiter(header: str) -> str | None:
    """What parts the columns of a header so that most names are known; None if none does."""
    known = {}
    for sign in DELIMITERS:
        cells = next(csv.reader([header.lstrip("\ufeff")], delimiter=sign), [])
        known[sign] = sum(_plain(cell) in _KNOWN or _plain(cell).endswith("_file_name") for cell in cells)
    best = max(known, key=lambda sign: known[sign])
    return best if known[best] else None


def _plain(name: str) -> str:
    return name.strip().lower()


def rows(
    path: Path,
    encoding: str | None,
    columns: Mapping[str, tuple[str, ...]] = COLUMNS,
    split: str | None = None,
) -> Iterator[Row | Skip]:
    """The rows below the header. Cells stay as they are written, "None" and "NA", too."""
    with opened(path, encoding) as file:
        header = file.readline()
        sign = delimiter(header)
        if sign is None:
            raise ValueError(f"{path}:1: no column of the header is known: {header.strip()[:80]!r}")
        table = csv.reader(itertools.chain([header.lstrip("\ufeff")], file), delimiter=sign)
        names = [name.strip() for name in next(table)]
        twice = sorted({name for name in names if names.count(name) > 1 and name})
        if twice:
            raise ValueError(f"{path}:1: two columns are called {', '.join(twice)}")
        canonical(dict.fromkeys(names, ""), f"{path}:1", columns)  # an ambiguous header, before any row
        yield from _rows(path, table, names, columns, split or of_name(path))


def _rows(
    path: Path, table: Any, names: list[str], columns: Mapping[str, tuple[str, ...]], split: str | None
) -> Iterator[Row | Skip]:
    while True:
        line = table.line_num + 1
        where = f"{path}:{line}"
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield Skip(where, "broken row", str(error))
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(names):
            yield Skip(where, "more cells than columns", f"{len(cells)} cells, {len(names)} columns")
            continue
        fields = {name: _cell(name, cell) for name, cell in zip(names, cells, strict=False)}
        yield Row(where, line, canonical(fields, where, columns), path.parent, split)


def _cell(name: str, text: str) -> Any:
    """A JSON list, where the column may have one; else the text."""
    if _plain(name) in LISTS and text.lstrip().startswith("["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return value if isinstance(value, list) else text
    return text


def header_known(lines: Iterable[str]) -> bool:
    """Whether the first line is a header of ours."""
    return delimiter(next(iter(lines), "")) is not None
