"""Opens Parquet files, which requires pyarrow."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 64
"""Rows in memory at a time."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`. Raises ValueError naming the file if it is broken, or pyarrow is missing."""
    try:
        from pyarrow import ArrowException, parquet  # optional: only Parquet needs it
    except ImportError as error:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as table:
            yield table
    except (ArrowException, OSError, UnicodeError, OverflowError) as error:
        raise ValueError(f"{path}: broken Parquet file: {' '.join(str(error).split())[:160]}") from error
