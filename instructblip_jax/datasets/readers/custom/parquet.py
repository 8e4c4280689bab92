"""Reads Parquet tables with embedded images, and datasets saved by the library `datasets`."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers.custom import pictures
from instructblip_jax.datasets.readers.custom.own_row import FOLDER_COLUMNS, LABEL, OwnRow, OwnRows, made
from instructblip_jax.datasets.readers.custom.splits import of_field, of_name
from instructblip_jax.datasets.readers.fields import BadRow
from instructblip_jax.datasets.readers.parquet_files import BATCH, opened


def rows(path: Path) -> OwnRows:
    """The rows of a Parquet file."""
    held = 0

    def values() -> Iterator[dict]:
        nonlocal held
        with opened(path) as table:
            held = table.metadata.num_rows
            names.update(_label_names(table.schema_arrow.metadata or {}))
            for batch in table.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()

    names: dict[str, list[str]] = {}
    yield from _rows(path, values(), names, path.parent, of_name(path))
    return held


def saved(path: Path) -> dict[str | None, Callable[[], OwnRows]]:
    """Split name -> reader of its rows, for a directory written by `save_to_disk`; the name of a single set is None."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{path}: was saved by the library datasets, which is needed to read it: pip install datasets"
        ) from error
    loaded = datasets.load_from_disk(str(path))
    parts = loaded.items() if isinstance(loaded, Mapping) else [(None, loaded)]
    found: dict[str | None, Callable[[], OwnRows]] = {}
    for name, part in parts:
        names = {}
        for column, feature in part.features.items():
            if isinstance(feature, datasets.Image):
                part = part.cast_column(column, datasets.Image(decode=False))
            if isinstance(feature, datasets.ClassLabel):
                names[column] = list(feature.names)
        try:
            split = of_field(str(name)) if name is not None else of_name(path)
        except BadRow:
            split = None
        found[name] = partial(_saved, path / str(name or ""), part, names, path, split)
    return found


def _saved(where: Path, part: Any, names: Mapping[str, list[str]], folder: Path, split: str | None) -> OwnRows:
    yield from _rows(where, part, names, folder, split)
    return len(part)


def _rows(
    path: Path, values: Iterable[Mapping], names: Mapping[str, list[str]], folder: Path, split: str | None
) -> Iterator[OwnRow | Skip]:
    for number, value in enumerate(values, 1):
        where = f"{path}:{number}"
        yield _row(where, number, dict(value), names, folder, split)


def _row(
    where: str, number: int, value: dict, names: Mapping[str, list[str]], folder: Path, split: str | None
) -> OwnRow | Skip:
    for column, known in names.items():
        index = value.get(column)
        if isinstance(index, int) and 0 <= index < len(known):
            value[column] = known[index]
    row = made(where, number, value, folder, split, FOLDER_COLUMNS)
    if isinstance(row, Skip):
        return row
    fields = dict(row.fields)
    if LABEL in names and fields.get("answer") == value.get(LABEL):
        fields.setdefault("candidates", names[LABEL])
    # Embedded images need no root: a `path` in addition to the bytes only names their origin.
    held = _held(fields.get("image"))
    return dataclasses.replace(row, fields=fields, media=pictures.media(held, folder, ()) if held else ())


def _held(image: Any) -> list[bytes]:
    items = image if isinstance(image, list) else [image]
    found = [item.get("bytes") if isinstance(item, Mapping) else item for item in items]
    return [item for item in found if isinstance(item, bytes) and item] if all(found) else []


def _label_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> class names, from the schema metadata that `datasets` writes; {} without any."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(kind["names"]) for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
