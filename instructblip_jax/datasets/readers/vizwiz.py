"""Reads VizWiz-VQA: Annotations/{train,val,test}.json, lists of rows; test has no answers.

Each image has one question, so its name serves as both ids. "unanswerable" is an ordinary answer. Images: train/,
val/, test/, by the name in the row (older releases number them with twelve digits).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.coco_vqa import given
from instructblip_jax.datasets.readers.fields import SourceRow, extras, full_text
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "vizwiz"


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    image = full_text(row, "image")
    blind = split == "test" and "answers" not in row
    fields: dict[str, Any] = {"answers": ()} if blind else answer_fields(given(row))
    record = Record(
        uid=f"{NAME}/{split}/{image}",
        dataset=NAME,
        split=split,
        task="vqa",
        media=(),
        slots={"question": full_text(row, "question")},
        image_id=image,
        question_id=image,
        meta=extras(row, "answer_type", "answerable"),
        **fields,
    )
    yield record, (Media(where.find(f"{split}/{image}", image)),)


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    return drafts(elements(path), partial(_make, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    base = source.parent if source.parent.name == "Annotations" else source
    where = store(base, images, "images", "..")
    splits: dict[str, Rows] = {}
    for split in ("train", "val", "test"):
        if path := find(source, *(f"{folder}{split}.json" for folder in ("Annotations/", "annotations/", ""))):
            splits[split] = partial(_rows, path, split, where)
    return nonempty(splits, source, "Annotations/{train,val,test}.json")


RELEASE = Release(_splits, {"train": 20_523, "val": 4_319, "test": 8_000})
