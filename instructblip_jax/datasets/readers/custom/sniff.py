"""Detects the format of a file or folder, by its contents first and then by its name."""

import json
from pathlib import Path

from instructblip_jax.datasets.readers.custom import folders, json_rows, tables, vqa
from instructblip_jax.datasets.readers.custom.conversations import KEYS
from instructblip_jax.datasets.readers.custom.text import beginning

FORMATS = (
    "jsonl",
    "json",
    "csv",
    "llava",
    "llava-jsonl",
    "coco",
    "vqa",
    "imagefolder",
    "classfolder",
    "pairs",
    "webdataset",
    "parquet",
    "datasets",
    "tfds",
    "text",
)
OF_FOLDERS = ("imagefolder", "classfolder", "pairs", "datasets", "text")
"""Formats of a whole folder. The others are formats of single files; a folder of those is read file by file."""
TABLES = (".csv", ".tsv")
ANNOTATIONS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".tar")
TEXT = ".txt"
_PACKED = {b"PK\x03\x04": "unzip", b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"Rar!": "unrar"}
_MARKS = ("dataset_info.json", "dataset_dict.json", "state.json", "features.json")


def of_file(path: Path, encoding: str | None) -> str:
    """The format of a file, one of `FORMATS`. Raises ValueError if it has none of them."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path}: is empty")
    for mark, tool in _PACKED.items():
        if head.startswith(mark):
            raise ValueError(f"{path}: is packed; unpack it first ({tool}) and pass the folder as --source")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[257:262] == b"ustar" or path.suffix.lower() == ".tar":
        return "webdataset"
    if path.name in folders.METADATA:
        return "imagefolder"
    return _of_text(path, encoding)


def _of_text(path: Path, encoding: str | None) -> str:
    text = beginning(path, encoding).lstrip("\ufeff \t\r\n")
    if text.startswith("["):
        first = json_rows.first(path, encoding)
        return "llava" if isinstance(first, dict) and _is_conversation(first) else "json"
    if text.startswith("{"):
        return _of_objects(path, encoding, text)
    if tables.header_known(text.splitlines()):
        return "csv"
    if path.suffix.lower() == ".jsonl" and text:
        return "jsonl"  # its first line is broken
    if path.suffix.lower() == TEXT and text:
        return "text"
    if path.suffix.lower() in TABLES and text:
        found = ", ".join(tables.columns(text.splitlines()[0]))[:80]
        raise ValueError(
            f"{path}:1: unknown columns: {found}. The picture's column is called image; the texts' instruction (or "
            "question) and answer (or caption). docs/own_data.md lists all names"
        )
    raise ValueError(
        f"{path}: unknown format; set --format to one of {', '.join(FORMATS)} (the file begins with {text[:40]!r})"
    )


def _of_objects(path: Path, encoding: str | None, text: str) -> str:
    """The format of a file with one object per line, or of one object, which may span several lines."""
    line, _, rest = text.partition("\n")
    try:
        first = json.loads(line)
        alone = not rest.strip()
    except (ValueError, RecursionError):
        first, alone = _top(path, encoding), True
    first = first if isinstance(first, dict) else {}
    only_annotations = "annotations" in first and "images" not in first
    if "questions" in first or (only_annotations and vqa.kind(path) == "annotations"):
        return "vqa"
    if "annotations" in first and "images" in first:
        return "coco"
    if _is_conversation(first):
        return "llava-jsonl"
    if alone and json_rows.ROWS in first:
        row = json_rows.first(path, encoding, json_rows.ROWS)
        return "llava" if isinstance(row, dict) and _is_conversation(row) else "json"
    return "jsonl"


def _top(path: Path, encoding: str | None) -> dict[str, None]:
    """The top-level keys of a file that is one object over several lines. {} for a file of broken JSON lines, which are
    reported one by one later. Raises ValueError for one broken object."""
    seen: dict[str, None] = {}
    try:
        for key in json_rows.names(path, encoding):
            seen[key] = None
            if "questions" in seen or {"images", "annotations"} <= seen.keys():
                break  # the rest of the file may be long
    except ValueError:
        text = beginning(path, encoding)
        if path.suffix.lower() == ".jsonl" or sum(line.startswith("{") for line in text.splitlines()) > 1:
            return {}
        raise
    return seen


def _is_conversation(fields: dict) -> bool:
    return any(fields.get(name) is not None for name in KEYS)


def of_folder(path: Path, encoding: str | None) -> list[tuple[str, Path]]:
    """(format, file or folder) of everything to read in a folder. Raises FileNotFoundError if there is nothing."""
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return [("datasets", path)]
    own = [each for each in sorted(path.iterdir()) if each.suffix.lower() in ANNOTATIONS and each.is_file()]
    own = [each for each in own if each.name not in (*_MARKS, *folders.METADATA)]
    if own:
        found = [(of_file(each, encoding), each) for each in own]
        return [part for part in found if part[0] != "vqa" or vqa.kind(part[1]) == "questions"]  # a pair is read once
    if folders.metadata(path):
        return [("imagefolder", path)]
    if folders.paired(path):
        return [("pairs", path)]
    if folders.classes(path):
        return [("classfolder", path)]
    if any(path.glob(f"*{TEXT}")):
        return [("text", path)]
    raise FileNotFoundError(
        f"{path}: nothing to read: no {', '.join(ANNOTATIONS)} file, no {' or '.join(folders.METADATA)}, "
        "no picture with a text file of the same name, and no folder with pictures"
    )
