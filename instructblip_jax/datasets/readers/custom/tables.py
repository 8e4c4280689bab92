"""Reads the rows of CSV and TSV files."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers.custom.own_row import (
    COLUMNS,
    FOLDER_COLUMNS,
    OwnRows,
    canonical,
    is_file_name,
    made,
)
from instructblip_jax.datasets.readers.custom.splits import of_name
from instructblip_jax.datasets.readers.custom.text import opened
from instructblip_jax.datasets.readers.delimited import Splitter
from instructblip_jax.datasets.readers.fields import BadRow

DELIMITERS = (",", ";", "\t", "|")
_KNOWN = {name for aliases in FOLDER_COLUMNS.values() for name in aliases} | {"file_name", "label"}
_SUFFIX = re.compile(r"\.\w{2,5}\W*\Z")
"""Matches the extension of a file name at the end of a cell."""


def delimiter(header: str) -> str | None:
    """The delimiter that splits a header into the most known column names; None if there are no known names."""
    known = {}
    for sign in DELIMITERS:
        cells = [_plain(cell) for cell in _cells(header, sign)]
        known[sign] = sum(cell in _KNOWN or is_file_name(cell) for cell in cells)
    best = max(known, key=lambda sign: known[sign])
    return best if known[best] else None


def _cells(header: str, sign: str) -> list[str]:
    return [name.strip() for name in Splitter(sign, 1).cells(header.lstrip("\ufeff"))]


def _plain(name: str) -> str:
    return name.strip().lower()


def rows(
    path: Path,
    encoding: str | None,
    columns: Mapping[str, tuple[str, ...]] = COLUMNS,
    split: str | None = None,
) -> OwnRows:
    """The rows below the header. Cells are kept as written, "None" and "NA" included."""
    split = split or of_name(path)
    held = 0
    with opened(path, encoding) as file:
        header = file.readline()
        sign = delimiter(header)
        if sign is None:
            raise ValueError(f"{path}:1: the header has no known column: {header.strip()[:80]!r}")
        names = _cells(header, sign)
        twice = sorted({name for name in names if names.count(name) > 1 and name})
        if twice:
            raise ValueError(f"{path}:1: two columns are called {', '.join(twice)}")
        canonical(dict.fromkeys(names, ""), f"{path}:1", columns)  # refuses an ambiguous header before any row
        pictured = [n for n, name in enumerate(map(_plain, names)) if name in columns["image"] or is_file_name(name)]
        suffixed = False

        def looks_like_a_row(own: list[str], cells: list[str]) -> bool:
            """A line of text may have as many commas as a row, but it has no file name in the image column."""
            return not (suffixed or _names_a_file(own, pictured)) or _names_a_file(cells, pictured)

        splitter = Splitter(sign, len(names), looks_like_a_row)

        def counted() -> Iterator[str]:
            nonlocal held
            for line in file:
                held += not splitter.is_blank(line)
                yield line

        for number, cells, lines in splitter.rows(counted(), 2):
            where = f"{path}:{number}"
            if isinstance(cells, BadRow):
                yield Skip(where, cells.reason, cells.detail, lines)
            elif len(cells) > len(names):
                yield Skip(where, "more cells than columns", f"{len(cells)} cells, {len(names)} columns", lines)
            else:
                suffixed = suffixed or _names_a_file(cells, pictured)
                fields = dict(zip(names, cells, strict=False))
                yield made(where, number, fields, path.parent, split, columns, rows=lines)
    return held


def _names_a_file(cells: list[str], columns: list[int]) -> bool:
    return any(_SUFFIX.search(cells[column]) for column in columns if column < len(cells))


def columns(header: str) -> list[str]:
    """The cells of a header whose names are all unknown, by the delimiter that makes most of them."""
    return max((_cells(header, sign) for sign in DELIMITERS), key=len)


def header_known(lines: Iterable[str]) -> bool:
    """True if the first line is a header with known columns."""
    return delimiter(next(iter(lines), "")) is not None
