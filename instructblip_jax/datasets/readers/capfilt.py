"""Reads web CapFilt, web pictures with filtered captions, in the forms in circulation.

The first form that is found is read:

1. annotation.json: rows {image, caption};
2. *.tar: img2dataset's shards, in the source or in shards/;
3. blip_laion_cc_sbu_558k.json, in LLaVA's form;
4. BLIP's lists of {url, caption} (ccs_filtered.json, ccs_synthetic_filtered.json, laion_synthetic_filtered_large.json),
   where a picture's file is named like the last part of its URL.

The source may also be a single file of any of these forms. The form of a row is recognized by its fields, so a list may
mix them. Picture paths are relative to a root, or absolute within one.
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
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, caption, full_text, need
from instructblip_jax.datasets.readers.json_files import Entry, elements
from instructblip_jax.datasets.readers.llava import pairs
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "capfilt"
LISTS = ("ccs_filtered.json", "ccs_synthetic_filtered.json", "laion_synthetic_filtered_large.json")
SUBSTITUTE = "blip_laion_cc_sbu_558k.json"
PICTURES = ("jpg", "jpeg", "png", "webp", "gif")
LONGEST = 1 << 20
"""Limit, in bytes, of a caption file in a shard; a row with a longer one is skipped."""


def _record(uid: str, image_id: str, said: str) -> Record:
    return Record(f"{NAME}/train/{uid}", NAME, "train", "caption", (), {}, (said,), image_id=image_id)


def _file(url: str) -> str:
    """The file name in a URL. Raises BadRow if there is none."""
    try:
        name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    except ValueError as error:
        raise BadRow("wrong type", f"url: {error}") from error
    if not name:
        raise BadRow("no file name in the url", url[:80])
    return name


def _make(where: Store, row: SourceRow) -> Iterator[Made]:
    said = pairs(row)[0][1] if "conversations" in row else need(row, "caption")
    named = "image" in row or "url" not in row
    file = full_text(row, "image") if named else _file(full_text(row, "url"))
    path = where.find(file, f"images/{file}", file.removeprefix("images/"))
    uid = f"{row['file']}:{row['number']}" if row["file"] else str(row["number"])
    yield _record(uid, Path(file).stem, caption(said)), (Media(path),)


def _entries(paths: Sequence[Path]) -> Iterator[Entry]:
    """The rows with their number in the file and, if there are several files, the file's name."""
    for path in paths:
        file = path.name if len(paths) > 1 else ""
        for number, (where, row) in enumerate(elements(path)):
            yield where, {**row, "file": file, "number": number} if isinstance(row, Mapping) else row


def _listed(paths: Sequence[Path], where: Store) -> Iterator[Draft | Skip]:
    return drafts(_entries(paths), partial(_make, where))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and members (extension -> offset, size) of each sample of a shard. Reads nothing but the headers.

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


def _caption_of(path: Path, parts: Mapping[str, tuple[int, int]]) -> str:
    """The caption of a sample, from its .txt file or else its .json file. Raises BadRow."""
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
        return words if ending == "txt" else need(json.loads(words), "caption")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRow("broken caption", f".{ending}: {error}") from error


def _shards(paths: Sequence[Path]) -> Iterator[Draft | Skip]:
    for path in paths:
        for key, parts in _samples(path):
            key = key.removeprefix("/")
            where = f"{path}:{key}"
            try:
                offset, size = next((parts[ending] for ending in PICTURES if ending in parts), (0, 0))
                if not size:
                    raise BadRow("no picture in the sample")
                record = _record(f"{path.stem}/{key}", key.rsplit("/", 1)[-1], caption(_caption_of(path, parts)))
                yield Draft(where, record, (Media(path, offset, size),))
            except BadRow as bad:
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
    return nonempty({"train": partial(_listed, paths, where)} if paths else {}, source, *wanted)


RELEASE = Release(_splits, {"train": 13_873_136})
