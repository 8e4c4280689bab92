"""Presents the user's own files as a `Release`: finds the files, their splits, and their rows."""

import dataclasses
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.datasets.draft import Reading, Release, Rows, Skip, Stream
from instructblip_jax.datasets.readers.custom import (
    coco,
    conversations,
    drafts,
    folders,
    json_rows,
    parquet,
    sniff,
    splits,
    tables,
    tfds_set,
    vqa,
    webdataset,
)
from instructblip_jax.datasets.readers.custom.own_row import OwnRows
from instructblip_jax.datasets.readers.custom.text import encoding_of
from instructblip_jax.datasets.readers.fields import BadRow

Read = Callable[[], OwnRows]
"""Streams the rows of a file or folder, in the same order every time."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """One file or folder; ``split`` counts the rows that cannot be read."""

    read: Read
    split: str | None


def release(
    source: Path, images: Sequence[Path], *, name: str, format: str | None, encoding: str | None, validation: float
) -> Release:
    """The dataset ``name`` from the files at ``source``.

    Args:
      images: folders in which images are searched for.
      format: one of `sniff.FORMATS`; None: detected from the files' contents.
      encoding: of text files; None: that of the byte order mark, else UTF-8.
      validation: the fraction of the images that is held out from training if the files name no splits.

    Raises:
      ValueError, FileNotFoundError: naming the file, the flag, or both.
    """
    splits.Shares(validation)
    if format is not None and format not in sniff.FORMATS:
        raise ValueError(f"--format {format}: must be one of {', '.join(sniff.FORMATS)}")

    def of(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
        return _splits(source, _parts(source, images, format, encoding), tuple(images), name, validation)

    return Release(of)


def _parts(source: Path, images: Sequence[Path], format: str | None, encoding: str | None) -> list[_Part]:
    for root in images:
        if not root.is_dir():
            raise FileNotFoundError(f"--images {root}: no such directory")
    if format == "tfds" or str(source).startswith(tfds_set.PREFIX):
        text = str(source)
        own = tfds_set.splits(text)
        if not own:
            raise ValueError(f"{source}: has no split named train, validation or test")
        return [_Part(partial(tfds_set.rows, text, name, split), split) for name, split in own.items()]
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or directory")
    if source.is_file():
        encoding_of(source, encoding)
        return _read(format or sniff.of_file(source, encoding), source, images, encoding)
    if format in sniff.OF_FOLDERS:
        return _read(str(format), source, images, encoding)
    if format:
        files = [path for path in sorted(source.iterdir()) if path.suffix.lower() in sniff.ANNOTATIONS]
        found = [(format, path) for path in files if path.is_file()]
        if not found:
            raise FileNotFoundError(f"{source}: no {', '.join(sniff.ANNOTATIONS)} file in it")
    else:
        found = sniff.of_folder(source, encoding)
    return [part for kind, path in found for part in _read(kind, path, images, encoding)]


def _read(kind: str, path: Path, images: Sequence[Path], encoding: str | None) -> list[_Part]:
    if kind in ("classfolder", "pairs", "datasets") and not path.is_dir():
        raise ValueError(f"{path}: --format {kind} needs a folder")
    if kind == "datasets":
        return [_Part(read, None) for read in parquet.saved(path).values()]
    if kind == "imagefolder":
        files = folders.metadata(path) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path}: no {' or '.join(folders.METADATA)} in it or in a folder right below")
        return [
            _Part(partial(folders.from_metadata, each, encoding), splits.of_folder(each.parent.name)) for each in files
        ]
    read: dict[str, Read] = {
        "jsonl": lambda: json_rows.rows(path, encoding, True),
        "json": lambda: json_rows.rows(path, encoding, False),
        "csv": lambda: tables.rows(path, encoding),
        "llava": lambda: conversations.rows(path, encoding, False),
        "llava-jsonl": lambda: conversations.rows(path, encoding, True),
        "coco": lambda: coco.rows(path, encoding),
        "vqa": lambda: vqa.rows(path, encoding, images),
        "classfolder": lambda: folders.from_classes(path),
        "pairs": lambda: folders.from_pairs(path, encoding),
        "webdataset": lambda: webdataset.rows(path),
        "parquet": lambda: parquet.rows(path),
        "text": lambda: folders.from_texts(path, encoding),
    }
    return [_Part(read[kind], splits.of_name(path) if path.is_file() else splits.of_folder(path.name))]


def _splits(
    source: Path, parts: Sequence[_Part], images: tuple[Path, ...], name: str, validation: float
) -> Mapping[str, Rows]:
    """Split -> stream of its drafts. Reads all files once to find the splits; with a validation share once more before
    that, because the images of one row must be in one split."""
    shares = splits.Shares(validation)
    if validation:
        for placed in _placed(parts, images):
            if isinstance(placed, drafts.Placed) and placed.split is None and len(placed.media) > 1:
                shares.link(placed.keys())
    found: dict[str, None] = {}
    empty, named = True, True
    for placed in _placed(parts, images):
        empty = False
        if isinstance(placed, drafts.Placed):
            named = named and placed.split is not None
            found[_split(placed, shares)] = None
        else:
            found.setdefault(placed[1], None)
    if empty:
        raise ValueError(f"{source}: has no rows")
    if validation and named:
        warnings.warn(
            f"{source}: --validation {validation} divided nothing, because its files or rows name their splits; "
            "rename train.jsonl, for example, and a share of it is held out",
            stacklevel=1,
        )
    return {split: partial(_stream, parts, images, name, shares, split) for split in splits.SPLITS if split in found}


def _split(placed: drafts.Placed, shares: splits.Shares) -> str:
    if placed.split is not None or not shares.validation:
        return placed.split or "train"
    return shares.split(placed.keys())


def _placed(parts: Sequence[_Part], images: tuple[Path, ...]) -> Generator[drafts.Placed | tuple[Skip, str], None, int]:
    """The rows with their images located, and each skip with the split in which it is counted.

    The generator returns the number of rows in the sources.
    """
    held = 0
    for part in parts:
        rows = Reading(part.read())
        for row in rows:
            if isinstance(row, Skip):
                yield row, part.split or "train"
                continue
            try:
                yield drafts.place(row, images)
            except BadRow as error:
                yield Skip(row.where, error.reason, error.detail, row.rows), row.split or "train"
        held += rows.held or 0
    return held


def _stream(parts: Sequence[_Part], images: tuple[Path, ...], name: str, shares: splits.Shares, split: str) -> Stream:
    elsewhere = 0
    found = Reading(_placed(parts, images))
    for placed in found:
        if not isinstance(placed, drafts.Placed):
            if placed[1] == split:
                yield placed[0]
            else:
                elsewhere += placed[0].rows
        elif _split(placed, shares) != split:
            elsewhere += placed.row.rows
        else:
            try:
                yield drafts.draft(placed, name, split)
            except BadRow as error:
                yield Skip(placed.row.where, error.reason, error.detail, placed.row.rows)
    return (found.held or 0) - elsewhere
