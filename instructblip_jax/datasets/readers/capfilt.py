"""Web CapFilt, pictures of the web with filtered captions, in the forms that are about. The first that is there
is read:

annotation.json, rows {image, caption}; *.tar, the shards of img2dataset, in the source or in shards/;
blip_laion_cc_sbu_558k.json, of LLaVA's form; BLIP's lists of {url, caption} (ccs_filtered.json,
ccs_synthetic_filtered.json, laion_synthetic_filtered_large.json), the pictures named as the last part of the address.
The source may also be one file of any of these forms. Rows are told apart by their fields, so a list may mix them.
Pictures are named relative to a root, or absolutely within one.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlsplit

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import Bad, Row, caption, full_text, need
from instructblip_jax.datasets.readers.json_files import Entry, elements
from instructblip_jax.datasets.readers.llava import pairs
from instructblip_jax.datasets.readers.rows import Made, drafts, find, places, some
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "capfilt"
LISTS = ("ccs_filtered.json", "ccs_synthetic_filtered.json", "laion_synthetic_filtered_large.json")
SUBSTITUTE = "blip_laion_cc_sbu_558k.json"
PICTURES = ("jpg", "jpeg", "png", "webp", "gif")
LONGEST = 1 << 20
"""Bytes of a caption's file in a shard; a longer one is none."""


def _record(uid: str, image_id: str, said: str) -> Record:
    return Record(f"{NAME}/train/{uid}", NAME, "train", "caption", (), {}, (said,), image_id=image_id)


def _file(url: str) -> str:
    """The name of an address' file."""
    try:
        name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    except ValueError as error:
        raise Bad("wrong type", f"url: {error}") from error
    if not name:
        raise Bad("no file name in the url", url[:80])
    return name


def _make(where: Store, row: Row) -> Iterator[Made]:
    said = pairs(row)[0][1] if "conversations" in row else need(row, "caption")
    named = "image" in row or "url" not in row
    file = full_text(row, "image") if named else _file(full_text(row, "url"))
    path = where.find(file, f"images/{file}", file.removeprefix("images/"))
    uid = f"{row['file']}:{row['number']}" if row["file"] else str(row["number"])
    yield _record(uid, Path(file).stem, caption(said)), (Media(path),)


def _entries(paths: Sequence[Path]) -> Iterator[Entry]:
    """Rows with their file (where there are several) and their number in it."""
    for path in paths:
        file = path.name if len(paths) > 1 else ""
        for number, (where, row) in enumerate(elements(path)):
            yield where, {**row, "file": file, "number": number} if isinstance(row, Mapping) else row


def _listed(paths: Sequence[Path], where: Store) -> Iterator[Draft | Skip]:
    return drafts(_entries(paths), partial(_make, where))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and members (ending -> offset and size) of each sample of a shard, whose headers alone are read.

    Raises ValueError naming the shard, if it is cut off or no plain tar.
    """
    try:
        with tarfile.open(path, "r:") as shard:
            key, parts = "", dict[str, tuple[int, int]]()
            while (member := shard.next()) is not None:
                shard.members = []  # type: ignore[attr-defined]  # a shard's index would be kept
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
        raise ValueError(f"{path}: no whole tar archive: {error}") from error


def _said(path: Path, parts: Mapping[str, tuple[int, int]]) -> str:
    """The caption of a sample: of its text, else of its JSON. Raises Bad."""
    ending = "txt" if "txt" in parts else "json"
    if ending not in parts:
        raise Bad("missing field", "caption")
    offset, size = parts[ending]
    if size > LONGEST:
        raise Bad("wrong type", f".{ending} of {size} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    try:
        words = data.decode("utf-8")
        return words if ending == "txt" else need(json.loads(words), "caption")
    except (ValueError, TypeError, RecursionError) as error:
        raise Bad("broken caption", f".{ending}: {error}") from error


def _shards(paths: Sequence[Path]) -> Iterator[Draft | Skip]:
    for path in paths:
        for key, parts in _samples(path):
            key = key.removeprefix("/")
            where = f"{path}:{key}"
            try:
                offset, size = next((parts[ending] for ending in PICTURES if ending in parts), (0, 0))
                if not size:
                    raise Bad("no picture in the sample")
                record = _record(f"{path.stem}/{key}", key.rsplit("/", 1)[-1], caption(_said(path, parts)))
                yield Draft(where, record, (Media(path, offset, size),))
            except Bad as bad:
                yield Skip(where, bad.reason, bad.detail)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images", "..")
    wanted = ("annotation.json", "*.tar or shards/*.tar", SUBSTITUTE, *LISTS)
    if source.is_file():
        rows: Rows = partial(_shards, [source]) if source.suffix == ".tar" else partial(_listed, [source], where)
        return {"train": rows}
    if path := find(source, *places("annotation.json")):
        return {"train": partial(_listed, [path], where)}
    if shards := sorted(chain(source.glob("*.tar"), source.glob("shards/*.tar"))):
        return {"train": partial(_shards, shards)}
    if path := find(source, *places(SUBSTITUTE)):
        return {"train": partial(_listed, [path], where)}
    paths = [path for name in LISTS if (path := find(source, *places(name)))]
    return some({"train": partial(_listed, paths, where)} if paths else {}, source, *wanted)


RELEASE = Release(_splits, {"train": 13_873_136})
