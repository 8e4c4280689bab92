"""Reads Parquet tables of images with captions, which img2dataset writes in addition to or instead of shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Draft, Media, Skip
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.fields import BadRow, need
from instructblip_jax.datasets.readers.parquet_files import BATCH, opened
from instructblip_jax.datasets.readers.web_pairs import PICTURES, record

CAPTIONS = ("caption", "TEXT", "text")
KEY = "key"


def tables_in(source: Path) -> list[Path]:
    """The Parquet files of a source with embedded images, in order, without img2dataset's lists of URLs."""
    paths = [source] if source.suffix == ".parquet" else sorted(source.glob("*.parquet")) if source.is_dir() else []
    return [path for path in paths if _columns(path)]


def _columns(path: Path) -> list[str]:
    """The columns of images, captions and keys; [] without images or captions."""
    with opened(path) as table:
        names = table.schema_arrow.names
    kept = [next((name for name in known if name in names), "") for known in (PICTURES, CAPTIONS)]
    return [*kept, *([KEY] if KEY in names else [])] if all(kept) else []


def tables(source: Path, name: str, split: str) -> Iterator[Draft | Skip]:
    """The drafts of a source's tables. Raises ValueError naming one that is broken."""
    for path in tables_in(source):
        columns = _columns(path)
        for number, row in enumerate(_rows(path, columns)):
            where = f"{path}:{number}"
            try:
                yield _draft(where, name, split, path, number, row, columns)
            except BadRow as bad:
                yield Skip(where, bad.reason, bad.detail)


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    with opened(path) as table:
        for batch in table.iter_batches(batch_size=BATCH, columns=columns):
            yield from batch.to_pylist()


def _draft(
    where: str, name: str, split: str, path: Path, number: int, row: dict[str, Any], columns: list[str]
) -> Draft:
    picture, said, *_ = columns
    data = row[picture]
    if not isinstance(data, bytes) or not data:
        raise BadRow("no picture in the sample")
    key = forms.id_text(row.get(KEY)) or str(number)
    made = record(name, split, f"{path.stem}/{key}", key, need(row, said))
    return Draft(where, made, (Media(data=data),))
