"""A-OKVQA: aokvqa_v1p0_{train,val,test}.json, a list of rows, test without answers.

A record holds both forms: the ten direct answers, and four choices as candidates with the right one's number.
Pictures: COCO 2017.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import Row, full_text, ident, index, need, options, texts, told
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.rows import Made, drafts, find, judged, places, some
from instructblip_jax.datasets.readers.stores import Store, coco_picture, coco_store

NAME = "aokvqa"


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    def make(row: Row) -> Iterator[Made]:
        image_id, question_id, choices = ident(row, "image_id"), ident(row, "question_id"), texts(row, "choices")
        fields: dict[str, Any] = {"answers": ()}
        if split != "test" or "direct_answers" in row:
            label = index(need(row, "correct_choice_idx"), len(choices), "correct_choice_idx")
            fields = {**judged(texts(row, "direct_answers")), "label": label}
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
            meta=told(row, "difficult_direct_answer", "rationales"),
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
    return some(splits, source, "aokvqa_v1p0_{train,val,test}.json")


RELEASE = Release(_splits, {"train": 17_056, "val": 1_145, "test": 6_702})
