"""Reads GQA: {train,val,testdev,test,challenge}_{balanced,all}_questions.json, objects of question id -> row, and the
numbered parts of train_all_questions/.

test and challenge have no answers. LAVIS's copies, which are lists in files of the same names, are read as well.
Images: images/<imageId>.jpg.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import SourceRow, answer_text, extras, full_text, ident, need
from instructblip_jax.datasets.readers.json_files import Entry, elements, first_mark, members
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, keyed, nonempty
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "gqa"
BLIND = ("test_balanced", "test_all", "challenge_balanced", "challenge_all")
FOLDERS = ("", "questions/", "questions1.2/", "lavis/", "annotations/")


def _entries(path: Path) -> Iterator[Entry]:
    return elements(path) if first_mark(path) == "[" else keyed(members(path), "question_id")


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    question_id = ident(row, "question_id")
    if "imageId" in row:
        image_id = str(ident(row, "imageId"))
        names = [f"images/{image_id}.jpg", f"{image_id}.jpg"]
    else:  # a copy from LAVIS
        image = full_text(row, "image")
        image_id = image.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        names = [f"images/{image}", image]
    blind = split in BLIND and "answer" not in row
    fields: dict[str, Any] = {"answers": ()} if blind else answer_fields((answer_text(need(row, "answer")),))
    types, groups = row.get("types"), row.get("groups")
    meta = extras(row, "fullAnswer", "isBalanced")
    meta |= extras(types, "structural", "semantic", "detailed") if isinstance(types, dict) else {}
    meta |= extras(groups, "global") if isinstance(groups, dict) else {}
    record = Record(
        uid=f"{NAME}/{split}/{question_id}",
        dataset=NAME,
        split=split,
        task="vqa",
        media=(),
        slots={"question": full_text(row, "question")},
        image_id=image_id,
        question_id=question_id,
        meta=meta,
        **fields,
    )
    yield record, (Media(where.find(*names)),)


def _rows(paths: Sequence[Path], split: str, where: Store) -> Iterator[Draft | Skip]:
    return drafts(chain.from_iterable(map(_entries, paths)), partial(_make, where, split))


def _parts(source: Path) -> list[Path]:
    """The numbered parts of train_all, in numeric order."""
    folders = [source / folder / "train_all_questions" for folder in FOLDERS] if source.is_dir() else []
    found = (path for folder in folders for path in folder.glob("train_all_questions_*.json"))
    numbered = ((re.fullmatch(r"train_all_questions_(\d+)", path.stem), path) for path in found)
    return [path for _, path in sorted((int(match[1]), path) for match, path in numbered if match)]


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    splits: dict[str, Rows] = {}
    for kind in ("balanced", "all"):
        for part in ("train", "val", "testdev", "test", "challenge"):
            split = f"{part}_{kind}"
            path = find(source, *(f"{folder}{split}_questions.json" for folder in FOLDERS))
            paths = [path] if path else _parts(source) if split == "train_all" else []
            if paths:
                splits[split] = partial(_rows, paths, split, where)
    wanted = "{train,val,testdev,test,challenge}_{balanced,all}_questions.json"
    return nonempty(splits, source, wanted, "train_all_questions/train_all_questions_*.json")


EXPECTED = {"train_balanced": 943_000, "val_balanced": 132_062, "testdev_balanced": 12_578, "test_balanced": 95_336}
RELEASE = Release(_splits, EXPECTED)
