"""Reads folders of images: with a metadata file, with one folder per class, or with one text file per image."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.readers.custom import json_rows, tables
from instructblip_jax.datasets.readers.custom.own_row import ASKS_LABEL, FOLDER_COLUMNS, OwnRow, OwnRows
from instructblip_jax.datasets.readers.custom.pictures import EXTENSIONS, OUTSIDE
from instructblip_jax.datasets.readers.custom.splits import of_folder, of_name
from instructblip_jax.datasets.readers.custom.text import opened
from instructblip_jax.datasets.readers.fields import BadRow, clean, encodable
from instructblip_jax.datasets.readers.forms import normal

METADATA = ("metadata.jsonl", "metadata.csv")
LONGEST_TEXT = 1 << 20


def metadata(root: Path) -> list[Path]:
    """The metadata files in a folder and in its direct subfolders."""
    return sorted(path for pattern in ("", "*/") for name in METADATA for path in root.glob(pattern + name))


def from_metadata(path: Path, encoding: str | None) -> OwnRows:
    """The rows of a metadata file."""
    split = of_folder(path.parent.name)
    if path.suffix == ".csv":
        return tables.rows(path, encoding, FOLDER_COLUMNS, split)
    return json_rows.rows(path, encoding, True, FOLDER_COLUMNS, split)


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder, sorted, without hidden ones; links to folders are not followed."""
    for folder, below, files in os.walk(root):
        below.sort()
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def is_picture(path: Path) -> bool:
    """True if the file has an image's extension."""
    return path.suffix.lower() in EXTENSIONS


def _below(root: Path) -> list[tuple[Path, str | None]]:
    """(folder, split) of the subfolders named after splits, or of the folder itself if there are none."""
    found = [(path, split) for path in sorted(root.iterdir()) if path.is_dir() and (split := of_folder(path.name))]
    return list(found) or [(root, of_folder(root.name))]


def classes(root: Path) -> list[str]:
    """The names of the folders that directly contain images, sorted."""
    found = set()
    for top, _ in _below(root):
        found |= {path.name for path in top.iterdir() if path.is_dir() and any(map(is_picture, path.iterdir()))}
    return sorted(found)


def from_classes(root: Path) -> OwnRows:
    """One row per image: its folder's name is the answer, and all folders' names are the candidates."""
    names = classes(root)
    held = 0
    for top, split in _below(root):
        for path in walk(top):
            if not is_picture(path):
                continue
            held += 1
            kind = path.relative_to(top).parts[0]
            if kind not in names:
                yield Skip(f"{path}:1", "picture outside the class folders")
                continue
            fields = {"instruction": ASKS_LABEL, "answer": kind, "candidates": names, "task": "choice"}
            yield _row(root, path, fields, split)
    return held


def paired(root: Path) -> bool:
    """True if any image and text file share a name."""
    files = list(walk(root))
    texts = {path.with_suffix("") for path in files if path.suffix.lower() == ".txt"}
    return any(path.with_suffix("") in texts for path in files if is_picture(path))


def from_pairs(root: Path, encoding: str | None) -> OwnRows:
    """One row per image: the text file of the same name is its caption."""
    held = 0
    for path in walk(root):
        where = f"{path}:1"
        held += is_picture(path)
        if path.suffix.lower() == ".txt":
            if not any(path.with_suffix(end).exists() for end in (*EXTENSIONS, *map(str.upper, EXTENSIONS))):
                held += 1
                yield Skip(where, "no picture beside the text")
        elif is_picture(path):
            text = path.with_suffix(".txt")
            if not text.is_file():
                yield Skip(where, "no text beside the picture")
                continue
            with opened(text, encoding) as file:
                caption = file.read(LONGEST_TEXT)
            split = next(filter(None, map(of_folder, reversed(path.relative_to(root.parent).parts[:-1]))), None)
            yield _row(root, path, {"answer": caption, "task": "caption"}, split)
    return held


def from_texts(source: Path, encoding: str | None) -> OwnRows:
    """One row per text file, of a folder or ``source`` itself: its whole text is a document."""
    root, held = (source if source.is_dir() else source.parent), 0
    for path in walk(source) if source.is_dir() else [source]:
        if path.suffix.lower() != ".txt":
            continue
        held += 1
        with opened(path, encoding) as file:
            try:
                text = normal(encodable(file.read()))
            except BadRow as error:
                yield Skip(f"{path}:1", error.reason, error.detail)
                continue
        split = next(filter(None, map(of_folder, reversed(path.relative_to(root.parent).parts[:-1]))), of_name(path))
        row = _row(root, path, {}, split)
        if isinstance(row, OwnRow):
            whole = dataclasses.replace(row, media=(), parts=(text,))
            row = whole if text else Skip(row.where, "document without text")
        yield row
    return held


def _row(root: Path, path: Path, fields: dict, split: str | None) -> OwnRow | Skip:
    """The row of an image file; a `Skip` if the file is a link that leads out of ``root``."""
    if not path.resolve().is_relative_to(root.resolve()):
        return Skip(f"{path}:1", OUTSIDE, str(path))
    try:
        name = clean(path.relative_to(root).with_suffix("").as_posix())
    except BadRow as error:  # a file name with undecodable bytes
        return Skip(ascii(path), error.reason, error.detail)
    return OwnRow(f"{path}:1", name, fields, root, split, media=(Media(path=path),))
