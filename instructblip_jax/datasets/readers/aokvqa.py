"""Reads A-OKVQA: aokvqa_v1p0_{train,val,test}.json, lists of rows; test has no answers.

A record serves both forms of the task: it has the ten direct answers, and the four choices as candidates with the index
of the correct one. Images: COCO 2017.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import SourceRow, extras, full_text, ident, index, need, options, texts
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, coco_picture, coco_store

NAME = "aokvqa"


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    def make(row: SourceRow) -> Iterator[Made]:
        image_id, question_id, choices = ident(row, "image_id"), ident(row, "question_id"), texts(row, "choices")
        fields: dict[str, Any] = {"answers": ()}
        if split != "test" or "direct_answers" in row:
            label = index(need(row, "correct_choice_idx"), len(choices), "correct_choice_idx")
            fields = {**answer_fields(texts(row, "direct_answers")), "label": label}
        record = Record(
            uid=f"{NAME}/{split}/{question_id}",
            dataset=NAME,
            split=split,
            task="vqa",
            media=(),
            slots={"question": full_text(row, "question"), "options": options(choices)},
            candidates=choices,
            image_id=image_id,
            question_id=question_id,
            meta=extras(row, "difficult_direct_answer", "rationales"),
            **fields,
        )
        yield record, (Media(coco_picture(where, image_id, f"{split}2017")),)

    return drafts(elements(path), make)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = coco_store(source, images)
    splits: dict[str, Rows] = {}
    for split in ("train", "val", "test"):
        if path := find(source, *places(f"aokvqa_v1p0_{split}.json")):
            splits[split] = partial(_rows, path, split, where)
    return nonempty(splits, source, "aokvqa_v1p0_{train,val,test}.json")


RELEASE = Release(_splits, {"train": 17_056, "val": 1_145, "test": 6_702})
