"""Reads image-caption pairs from the web, in the forms that such sets share: lists of rows, tables of URLs, and shards
of img2dataset and of LAVIS.

A row with several captions becomes one record with several answers; training draws one of them at each visit.
"""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Skip, Stream
from instructblip_jax.datasets.readers.fields import (
    BadRow,
    SourceRow,
    caption,
    captions,
    distinct,
    full_text,
    need,
)
from instructblip_jax.datasets.readers.json_files import Entry, elements
from instructblip_jax.datasets.readers.llava import pairs
from instructblip_jax.datasets.readers.source_rows import Made, drafts, numbered
from instructblip_jax.datasets.readers.stores import Store
from instructblip_jax.datasets.readers.text_files import lines

PICTURES = ("jpg", "jpeg", "png", "webp", "gif")
LONGEST = 1 << 20
"""Limit, in bytes, of a caption file in a shard; a row with a longer one is skipped."""
LOOKED_AT = 100
"""Number of rows of a table that determine its URL column."""
LISTED = 2
"""Number of captions used from a list in a LAVIS shard, as in its code."""


def record(name: str, split: str, uid: str, image_id: str, said: Any) -> Record:
    """An image's record. ``said``: its caption or a list of captions, unchecked. Raises BadRow."""
    answers = distinct(captions(said)) if isinstance(said, list) else (caption(said),)
    return Record(f"{name}/{split}/{uid}", name, split, "caption", (), {}, answers, image_id=image_id)


# Lists


def listed(paths: Sequence[Path], name: str, split: str, where: Store, folders: Sequence[str] = ()) -> Stream:
    """The drafts of lists of rows {image, caption}, {url, caption} or in LLaVA's form, which may be mixed.

    ``folders``: folders of the roots in which images may be, in addition to images/; if given, an ``image`` may also be
    a path from another machine, which is matched by its last components.
    """
    return drafts(_entries(paths), partial(_make, name, split, where, folders))


def _entries(paths: Sequence[Path]) -> Iterator[Entry]:
    """The rows with their index in the file and, if there are several files, the file's name."""
    for path in paths:
        file = path.name if len(paths) > 1 else ""
        for where, row in numbered(elements(path)):
            yield where, {**row, "file": file} if isinstance(row, Mapping) else row


def _make(name: str, split: str, where: Store, folders: Sequence[str], row: SourceRow) -> Iterator[Made]:
    said = pairs(row)[0][1] if "conversations" in row else need(row, "caption")
    named = "image" in row or "url" not in row
    file = full_text(row, "image") if named else file_of(full_text(row, "url"))
    uid = f"{row['file']}:{row['number']}" if row.get("file") else str(row["number"])
    path = find_picture(where, file, folders)
    yield record(name, split, uid, Path(file).stem, said), (Media(path),)


def find_picture(where: Store, file: str, folders: Sequence[str] = ()) -> Path:
    """The image of a list's row; see `listed`. Raises BadRow for a path that leaves the roots."""
    tails = [file]
    if folders and os.path.isabs(file):
        try:
            return where.find(file)
        except BadRow:
            parts = Path(file).parts[1:]
            tails = ["/".join(parts[-count:]) for count in (3, 2, 1)]
    base = file.rsplit("/", 1)[-1]
    deeper = [f"{folder}/{base}" for folder in folders] + ([base] if folders else [])
    return where.find(*tails, *(f"images/{tail}" for tail in tails), tails[0].removeprefix("images/"), *deeper)


def file_of(url: str) -> str:
    """The file name in a URL. Raises BadRow if there is none."""
    try:
        name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    except ValueError as error:
        raise BadRow("wrong type", f"url: {error}") from error
    if not name:
        raise BadRow("no file name in the url", url[:80])
    return name


# Tables


def table(path: Path, name: str, split: str, where: Store) -> Stream:
    """The drafts of a file with a caption and a URL per line, separated by a tab, in either order and without a header:
    CC3M has captions first, CC12M URLs.

    Raises ValueError for a file in which both columns have URLs, or none.
    """
    address = address_column(path)

    def entries() -> Iterator[Entry]:
        for number, line in lines(path):
            if line.strip():
                cells = line.split("\t")
                place = f"{path}:{number}"
                if len(cells) != 2 or not _is_address(cells[address]):
                    yield place, BadRow("broken line", line[:80])
                else:
                    url, said = cells[address], cells[1 - address]
                    yield place, {"url": url.strip(), "caption": said, "number": number - 1}

    return from_addresses(entries(), name, split, where)


def from_addresses(entries: Iterator[Entry], name: str, split: str, where: Store) -> Stream:
    """The drafts of rows {url, caption, number}. An image file is named like the last part of its URL."""
    return drafts(entries, partial(_make, name, split, where, ()))


def address_column(path: Path) -> int:
    """0 or 1: the column of a table with URLs in most of its first rows. See `table`."""
    rows, found = 0, [0, 0]
    for _, line in lines(path):
        cells = line.split("\t")
        if len(cells) == 2:
            rows += 1
            found = [count + _is_address(cell) for count, cell in zip(found, cells, strict=True)]
        if rows == LOOKED_AT:
            break
    hold = [2 * count > rows for count in found]
    if sum(hold) != 1:
        raise ValueError(
            f"{path}: {'both' if all(hold) else 'none'} of its two columns hold{'' if all(hold) else 's'} addresses "
            "(http://…); a caption, a tab and an address a line are read, or the address first"
        )
    return hold.index(True)


def _is_address(cell: str) -> bool:
    return cell.strip().lower().startswith(("http://", "https://")) and " " not in cell.strip()


# Shards


def shards(source: Path, name: str, split: str) -> Iterator[Draft | Skip]:
    """The drafts of the tar archives of a source, whose samples are an image with a .txt or .json file of the same
    name."""
    for path in shards_in(source):
        # Archives of several folders may have the same name.
        folder = path.parent.name if path.parent not in (source, source.parent, source / "shards") else ""
        of = f"{folder}/{path.stem}" if folder else path.stem
        for key, parts in samples(path):
            key = key.removeprefix("/")
            where = f"{path}:{key}"
            try:
                offset, size = next((parts[ending] for ending in PICTURES if ending in parts), (0, 0))
                if not size:
                    raise BadRow("no picture in the sample")
                made = record(name, split, f"{of}/{key}", key.rsplit("/", 1)[-1], _captions_of(path, parts))
                yield Draft(where, made, (Media(path, offset, size),))
            except BadRow as bad:
                yield Skip(where, bad.reason, bad.detail)


def shards_in(source: Path) -> list[Path]:
    """The tar archives of a source, in order: itself, or those in it or in its folders."""
    if source.is_file():
        return [source] if source.suffix == ".tar" else []
    return sorted(chain(source.glob("*.tar"), source.glob("*/*.tar")))


def samples(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and members (extension -> offset, size) of each sample of a shard. Reads only the headers.

    Raises ValueError naming the shard if it is cut off or not an uncompressed tar archive.
    """
    try:
        with tarfile.open(path, "r:") as shard:
            key, parts = "", dict[str, tuple[int, int]]()
            while (member := shard.next()) is not None:
                shard.members = []  # type: ignore[attr-defined]  # else it keeps the headers of the whole shard
                if not member.isreg():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, ending = file.partition(".")
                if f"{folder}/{stem}" != key and parts:
                    yield key, parts
                    parts = {}
                key = f"{folder}/{stem}"
                parts[ending.lower()] = member.offset_data, member.size
            if parts:
                yield key, parts
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: not a complete tar archive: {error}") from error


def _captions_of(path: Path, parts: Mapping[str, tuple[int, int]]) -> Any:
    """The captions of a sample, unchecked: its .txt file, or the field of its .json file, which in LAVIS's shards may
    itself be a list. Raises BadRow."""
    ending = "txt" if "txt" in parts else "json"
    if ending not in parts:
        raise BadRow("missing field", "caption")
    offset, size = parts[ending]
    if size > LONGEST:
        raise BadRow("wrong type", f".{ending} of {size} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    try:
        words = data.decode("utf-8")
        if ending == "txt":
            return words
        found = json.loads(words)
        return found[:LISTED] if isinstance(found, list) else need(found, "caption")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRow("broken caption", f".{ending}: {error}") from error
