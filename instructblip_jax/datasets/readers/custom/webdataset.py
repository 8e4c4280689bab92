"""Reads WebDataset shards: tar archives in which the files of a sample are adjacent and share a name."""

import dataclasses
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.readers.custom.json_rows import parse
from instructblip_jax.datasets.readers.custom.own_row import FOLDER_COLUMNS, OwnRow, OwnRows, made
from instructblip_jax.datasets.readers.custom.pictures import EXTENSIONS, OUTSIDE
from instructblip_jax.datasets.readers.custom.splits import of_name
from instructblip_jax.datasets.readers.custom.text import IMAGE

LONGEST_TEXT = 1 << 24
TEXTS = {"txt": "answer", "text": "answer", "caption": "answer", "cls": "label"}
"""Extension of a text file -> the column for its text. A .json file has its own columns."""
Sample = tuple[str, dict[str, Media | bytes]]
"""Name of a sample, and extension -> the image's position in the archive, or the bytes of a text file."""


def members(path: Path) -> Iterator[Sample | Skip]:
    """The samples of an archive, without reading images. Raises ValueError if the archive is broken."""
    name, parts = "", dict[str, Media | bytes]()
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps the headers of the whole archive
                if not member.isfile():
                    continue
                key, ending = _split(member.name)
                if key != name and parts:
                    yield name, parts
                    parts = {}
                name = key
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    yield Skip(f"{path}:{member.name}", OUTSIDE)
                elif member.issparse():
                    yield Skip(f"{path}:{member.name}", "sparse file in an archive")
                elif f".{ending.rpartition('.')[2]}" in EXTENSIONS:
                    parts[ending] = Media(path=path, offset=member.offset_data, size=member.size)
                elif member.size <= LONGEST_TEXT:
                    file = archive.extractfile(member)
                    parts[ending] = file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError, UnicodeError, OverflowError) as error:
        raise ValueError(f"{path}: broken archive: {error}") from error
    if parts:
        yield name, parts


def _split(name: str) -> tuple[str, str]:
    """(folder and name up to the first dot, the rest in lower case)."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def rows(path: Path) -> OwnRows:
    """One row per sample."""
    held = 0
    for sample in members(path):
        held += 1
        if isinstance(sample, Skip):
            yield sample
            continue
        name, parts = sample
        where = f"{path}:{name}"
        fields: dict[str, Any] = {}
        failed: Skip | None = None
        for ending, part in parts.items():
            if not isinstance(part, bytes) or ending not in (*TEXTS, "json"):
                continue
            try:
                text = part.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                failed = Skip(where, "not UTF-8", f".{ending}, byte {error.start}")
                break
            value = parse(text, where) if ending == "json" else {TEXTS[ending]: text}
            if isinstance(value, Skip):
                failed = value
                break
            fields |= value if isinstance(value, Mapping) else {}
        if failed:
            yield failed
            continue
        media = tuple(part for _, part in sorted(parts.items(), key=lambda item: item[0]) if isinstance(part, Media))
        if media and isinstance(said := fields.get("text"), str) and not {"answer", "caption"} & fields.keys():
            if IMAGE in said:  # a document, whose images are in the order of their numbers
                media = tuple(part for _, part in sorted(parts.items(), key=_by_number) if isinstance(part, Media))
            else:
                fields["caption"] = fields.pop("text")
        row = made(where, name, _without(fields), path.parent, of_name(path), FOLDER_COLUMNS)
        if isinstance(row, OwnRow):
            # a .json file's "image" is the image's location before packing
            kept = {column: value for column, value in row.fields.items() if column != "image"}
            row = dataclasses.replace(row, fields=kept, media=media)
        yield row
    return held


def _by_number(item: tuple[str, Media | bytes]) -> tuple[list[int], str]:
    """A sort key that puts 2.jpg before 10.jpg."""
    return [int(digits) for digits in re.findall(r"\d+", item[0])], item[0]


def _without(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without the .json file's caption if a text file has one: they are the same caption."""
    same = [name for name in ("caption", "text") if "answer" in fields and fields.get(name) is not None]
    return {name: value for name, value in fields.items() if name not in same}
