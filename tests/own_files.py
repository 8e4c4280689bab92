"""Writes files as users might bring them, and reads them with the readers under test."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from instructblip_jax.datasets.draft import Draft, Skip
from instructblip_jax.datasets.readers import custom


def picture(path: Path, shade: int = 90) -> Path:
    """A small PNG at ``path``, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(shade))
    return path


def png(shade: int = 90) -> bytes:
    """A small PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def json_lines(path: Path, *rows: Any) -> Path:
    """One object per line; strings are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def json_file(path: Path, value: Any) -> Path:
    """One JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
    return path


def read(source: Path | str, *images: Path, **options: Any) -> dict[str, list[Draft | Skip]]:
    """Split -> its rows."""
    given = {"name": "own", "format": None, "encoding": None, "validation": 0.0} | options
    release = custom.release(Path(source), images, **given)
    return {split: list(rows()) for split, rows in release.splits(Path(source), images).items()}


def rows(source: Path | str, *images: Path, **options: Any) -> list[Draft | Skip]:
    """All rows, one split after another."""
    return [row for split in read(source, *images, **options).values() for row in split]


def drafts(source: Path | str, *images: Path, **options: Any) -> list[Draft]:
    """All rows, each of which must be a record."""
    found = rows(source, *images, **options)
    skipped = [row for row in found if isinstance(row, Skip)]
    assert not skipped
    return [row for row in found if isinstance(row, Draft)]


def only(source: Path | str, *images: Path, **options: Any) -> Draft:
    """The one record."""
    (found,) = drafts(source, *images, **options)
    return found


def reasons(source: Path | str, *images: Path, **options: Any) -> list[str | None]:
    """For each row the reason why it is skipped, or None for a record."""
    return [row.reason if isinstance(row, Skip) else None for row in rows(source, *images, **options)]
