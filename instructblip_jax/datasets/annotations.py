"""The files that a set was prepared from, so that a set is not reused after they changed.

Annotations are known by their content, large containers (tar, parquet, arrow) by their size and both ends. Pictures and
videos are not looked at, for there are too many; but where a folder has no annotations and its pictures are the rows,
their names and sizes count.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from instructblip_jax.data.places import directory_of, is_prepared
from instructblip_jax.data.prepared import update_by_ends
from instructblip_jax.datasets.prepare.finish import there
from instructblip_jax.datasets.readers.custom import folders, sniff, vqa

TEXTS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".token")
CONTAINERS = (".parquet", ".arrow", ".tar")
DEPTH = 2
"""Folders below the source in which an official set's annotations lie at most: VSR's are in splits/zeroshot."""
MANY = 32
"""Files of a folder with one ending that are told one by one; of more, one digest tells of all."""
FLAGS = ("frames", "images", "format", "encoding", "validation")
"""Options that decide what is in a set, by the names of their flags."""


def of_source(source: Path, out: Path, *, custom: bool) -> dict[str, str]:
    """File -> digest of the annotations at ``source``; files under ``out`` are none of them."""
    if source.is_file():
        own = [source]
        kind = vqa.kind(source) if custom and source.suffix.lower() == ".json" else None
        partner = vqa.partner(source, kind) if kind in ("questions", "annotations") else None
        return _told(source.parent, [*own, *([partner] if partner else [])])
    if not source.is_dir():  # a prepared TFDS set, by its name
        return {}
    if not custom:
        return _told(source, _below(source, out, DEPTH))
    files = [path for path in _below(source, out, 0) if path.suffix.lower() in (*sniff.ANNOTATIONS, ".arrow")]
    files = files or folders.metadata(source)
    if files:
        return _told(source, files)
    rows = [path for path in folders.walk(source) if not path.is_relative_to(out)]
    texts = [path for path in rows if path.suffix.lower() == ".txt"]
    shown = [path for path in rows if folders.is_picture(path)]
    names = [f"{path.relative_to(source)} {path.stat().st_size}" for path in shown]
    return {
        f"{len(texts):,} texts": _digest(f"{path.relative_to(source)} {_content(path)}" for path in texts),
        f"{len(shown):,} pictures": _digest(names),
    }


def changes(out: str | Path, name: str, configuration: Mapping[str, object]) -> tuple[list[str], str]:
    """In what a prepared set differs from what ``configuration`` (flags, and the files' digests as "files") would make
    now, each with both values; and a note where an earlier version did not write down what it was made from."""
    if not is_prepared(out, name):
        return [], ""
    before = there(directory_of(out, name), name).configuration
    found = [
        f"--{flag} was {_value(before[flag])} and is {_value(configuration[flag])}"
        for flag in FLAGS
        if flag in before and flag in configuration and before[flag] != configuration[flag]
    ]
    if "files" not in before:
        return found, "an earlier version made it, so it is not known whether its files are still the same"
    old, new = before["files"], configuration["files"]
    assert isinstance(old, dict)
    assert isinstance(new, dict)
    found += [f"{file} is gone" for file in sorted(old.keys() - new.keys())]
    found += [f"{file} is new" for file in sorted(new.keys() - old.keys())]
    found += [f"{file} has changed" for file in sorted(old.keys() & new.keys()) if old[file] != new[file]]
    return found, ""


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "not given"
    return "not given" if value is None else str(value)


def _below(folder: Path, out: Path, depth: int) -> Iterator[Path]:
    """Annotation files in a folder and in those below it, as deep as that; neither hidden ones nor those of ``out``."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(".") or path == out:
            continue
        if path.suffix.lower() in (*TEXTS, *CONTAINERS) and entry.is_file():
            yield path
        elif depth and entry.is_dir(follow_symlinks=False):
            yield from _below(path, out, depth - 1)


def _told(root: Path, files: Iterator[Path] | list[Path]) -> dict[str, str]:
    together: dict[tuple[Path, str], list[Path]] = {}
    for path in files:
        together.setdefault((path.parent, path.suffix.lower()), []).append(path)
    told = {}
    for (folder, suffix), own in together.items():
        if len(own) > MANY:
            told[str(folder.relative_to(root) / f"*{suffix}")] = _digest(
                f"{path.name} {_content(path)}" for path in own
            )
        else:
            told |= {str(path.relative_to(root)): _content(path) for path in own}
    return told


def _content(path: Path) -> str:
    if path.suffix.lower() in CONTAINERS:
        digest = hashlib.blake2b(digest_size=16)
        update_by_ends(digest, path)
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest(parts: Iterator[str] | list[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
