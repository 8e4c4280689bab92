"""Reads tables whose cells are quoted as spreadsheets quote them, as the sets of sounds, shapes and web videos are.

Every cell stays a string: ids with leading zeros, and captions that say "None" or "nan". A file that is not UTF-8 is
taken for Windows-1252, of which Latin-1's letters are a part.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from instructblip_jax.datasets.readers.fields import BadRow
from instructblip_jax.datasets.readers.json_files import Entry

CHUNK = 1 << 20
OTHER = "cp1252"


def _encoding(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        try:
            while file.read(CHUNK):
                pass
        except UnicodeDecodeError:
            return OTHER
    return "utf-8-sig"


def table(path: Path, columns: Sequence[str] = (), comment: str = "", spaced: bool = False) -> Iterator[Entry]:
    """The rows of a file as objects, column name -> cell, with the line that each ends in.

    Args:
      columns: the names of the columns of a file without a header; otherwise its first line names them.
      comment: begins lines that are no rows; "" for none.
      spaced: blanks behind a comma are not part of the cell.

    Raises ValueError naming the file and the line of a cell that never ends.
    """
    with path.open(encoding=_encoding(path), errors="replace", newline="") as file:
        reader = csv.reader(_kept(file, comment), skipinitialspace=spaced)
        names = list(columns) or [name.strip() for name in next(reader, [])]
        try:
            for cells in reader:
                if any(cells):
                    whole = len(cells) == len(names)
                    found = f"{len(cells)}, not {len(names)}"
                    yield (
                        f"{path}:{reader.line_num}",
                        dict(zip(names, cells, strict=True)) if whole else BadRow("wrong number of columns", found),
                    )
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: {error}; a quote above it is not closed") from error


def _kept(file: IO[str], comment: str) -> Iterator[str]:
    for line in file:
        if not comment or not line.startswith(comment):
            yield line.replace("\0", "")
