"""Digests of a dataset's source files, so that a prepared dataset is not reused after they have changed.

Annotation files are identified by their content, large containers (tar, parquet, arrow) by their size and both ends.
There are too many images and videos to read; only if a folder has no annotations, and its images are the rows, their
names and sizes are compared.
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
CONTAINERS = (".parquet", ".arrow", ".tar", ".jsonl.zip")
DEPTH = 2
"""Maximum depth of an official set's annotations below the source: VSR's are in splits/zeroshot."""
MANY = 32
"""Maximum number of files per folder and extension with separate digests; more of them share one digest."""
FLAGS = ("frames", "images", "format", "encoding", "validation")
"""The flags that affect the contents of a set."""


def of_source(source: Path, out: Path, *, custom: bool) -> dict[str, str]:
    """File -> digest, for the annotation files at ``source``; files under ``out`` are ignored."""
    if source.is_file():
        own = [source]
        kind = vqa.kind(source) if custom and source.suffix.lower() == ".json" else None
        partner = vqa.partner(source, kind) if kind in ("questions", "annotations") else None
        return _digests(source.parent, [*own, *([partner] if partner else [])])
    if not source.is_dir():  # the name of a prepared TFDS set
        return {}
    if not custom:
        return _digests(source, _below(source, out, DEPTH))
    files = [path for path in _below(source, out, 0) if path.suffix.lower() in (*sniff.ANNOTATIONS, ".arrow")]
    files = files or folders.metadata(source)
    if files:
        return _digests(source, files)
    rows = [path for path in folders.walk(source) if not path.is_relative_to(out)]
    texts = [path for path in rows if path.suffix.lower() == ".txt"]
    pictures = [path for path in rows if folders.is_picture(path)]
    names = [f"{path.relative_to(source)} {path.stat().st_size}" for path in pictures]
    return {
        f"{len(texts):,} texts": _digest(f"{path.relative_to(source)} {_content(path)}" for path in texts),
        f"{len(pictures):,} pictures": _digest(names),
    }


def changes(out: str | Path, name: str, configuration: Mapping[str, object]) -> tuple[list[str], str]:
    """The differences between a prepared dataset and the current ``configuration``.

    ``configuration``: flags, and the digests of `of_source` as "files". Returns one phrase per difference, with both
    values, and a note if an earlier version of the package did not record the source files.
    """
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
    """Annotation files in a folder and up to ``depth`` folders below it, without hidden ones and those of ``out``."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(".") or path == out:
            continue
        if path.name.lower().endswith((*TEXTS, *CONTAINERS)) and entry.is_file():
            yield path
        elif depth and entry.is_dir(follow_symlinks=False):
            yield from _below(path, out, depth - 1)


def _digests(root: Path, files: Iterator[Path] | list[Path]) -> dict[str, str]:
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in files:
        groups.setdefault((path.parent, path.suffix.lower()), []).append(path)
    digests = {}
    for (folder, suffix), group in groups.items():
        if len(group) > MANY:
            digests[str(folder.relative_to(root) / f"*{suffix}")] = _digest(
                f"{path.name} {_content(path)}" for path in group
            )
        else:
            digests |= {str(path.relative_to(root)): _content(path) for path in group}
    return digests


def _content(path: Path) -> str:
    if path.name.lower().endswith(CONTAINERS):
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
