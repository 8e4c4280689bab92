"""Reads OBELICS (arXiv 2306.16527): Parquet tables of documents, as parallel lists ``images`` and ``texts``, one of
which is None at each position.

Images are URLs, and nothing is downloaded: local copies are named by the SHA-1 of the URL in hexadecimal digits with
the extension of their format, or like the last part of the URL, if these are distinct.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers import documents
from instructblip_jax.datasets.readers.documents import LEAST, LEFT_OUT
from instructblip_jax.datasets.readers.fields import SourceRow, extras, typed
from instructblip_jax.datasets.readers.json_files import Entry
from instructblip_jax.datasets.readers.parquet_files import BATCH, opened
from instructblip_jax.datasets.readers.source_rows import Made, drafts, nonempty
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.web_pairs import PICTURES, file_of

COLUMNS = ("images", "texts", "general_metadata")


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images")
    paths = [source] if source.suffix == ".parquet" else sorted(source.glob("**/*.parquet"))
    rows: dict[str, Rows] = {"train": partial(_rows, paths, where)} if paths else {}
    return nonempty(rows, source, "*.parquet")


def _rows(paths: Sequence[Path], where: Store) -> Stream:
    def entries() -> Iterator[Entry]:
        for path in paths:
            with opened(path) as table:
                names = [name for name in COLUMNS if name in table.schema_arrow.names]
                if lacking := sorted({*COLUMNS[:2]} - {*names}):
                    raise ValueError(f"{path}: has no column {', '.join(lacking)}; not a table of OBELICS")
                number = 0
                for batch in table.iter_batches(batch_size=BATCH, columns=names):
                    for row in batch.to_pylist():
                        yield f"{path}:{number}", {**row, "uid": f"{path.stem}:{number}"}
                        number += 1

    return drafts(entries(), partial(_make, where))


def _make(where: Store, row: SourceRow) -> Iterator[Made]:
    notes: list[str] = []
    pieces: list[str | Media] = []
    for address, text in documents.pairs(row):
        if text is not None:
            pieces.append(text)
            continue
        path = _find(where, address)
        if path.is_file():
            pieces.append(Media(path, least=LEAST))
        else:
            notes.append(f"{LEFT_OUT}missing picture")
    uid = f"obelics/train/{row['uid']}"
    yield documents.made(uid, "obelics", "train", pieces, documents.PARAGRAPH, notes=notes, meta=_meta(row))


def _find(where: Store, address: Any) -> Path:
    named = hashlib.sha1(typed(address, str, "images").encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    names = [f"{named}.{ending}" for ending in PICTURES]
    return where.find(*names, file_of(address))


def _meta(row: SourceRow) -> dict[str, Any]:
    """The page's URL."""
    try:
        return extras(json.loads(row.get("general_metadata") or "{}"), "url")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


RELEASE = Release(_splits)
