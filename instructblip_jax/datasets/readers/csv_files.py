"""Reads tables with spreadsheet-style quoting, as in the audio, point cloud and web video sets.

Every cell remains a string, including ids with leading zeros and captions such as "None" or "nan". A file that is not
UTF-8 is read as Windows-1252, which includes Latin-1's letters.
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
    """The rows of a file as objects, column name -> cell, each with its last line.

    Args:
      columns: the names of the columns of a file without a header; otherwise its first line names them.
      comment: prefix of comment lines; "" for none.
      spaced: blanks after a comma are not part of the cell.

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
