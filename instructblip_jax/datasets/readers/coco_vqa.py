"""Reads VQAv2 and OKVQA: questions and annotations in two files, joined by question_id because their orders differ.

VQAv2: v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json and
v2_mscoco_{train2014,val2014}_annotations.json. OKVQA: OpenEnded_mscoco_{train2014,val2014}_questions.json and
mscoco_{train2014,val2014}_annotations.json. A split without these is read from LAVIS's {vqa,okvqa}_{train,val}.json.
Images: COCO 2014; test2015 for both test splits.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip, Stream
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.coco_caption import listed_image
from instructblip_jax.datasets.readers.fields import (
    BadRow,
    SourceRow,
    answer_text,
    extras,
    full_text,
    ident,
    need,
    texts,
    typed,
)
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, coco_picture, coco_store

SUBTYPES = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
ANSWERED = ("train", "val")


def _record(name: str, split: str, row: SourceRow, image_id: int | str, **fields: Any) -> Record:
    question_id = ident(row, "question_id")
    slots = {"question": full_text(row, "question")}
    return Record(
        f"{name}/{split}/{question_id}",
        name,
        split,
        "vqa",
        (),
        slots,
        image_id=image_id,
        question_id=question_id,
        **fields,
    )


def given(row: SourceRow) -> tuple[str, ...]:
    """All annotators' answers, in the file's order."""
    return tuple(
        sys.intern(answer_text(need(typed(entry, dict, "answers"), "answer")))  # millions, but few are distinct
        for entry in typed(need(row, "answers"), list, "answers")
    )


Annotations = dict[str | None, "tuple[tuple[str, ...], dict[str, Any]] | BadRow"]


def _annotations(path: Path, found: Annotations) -> Iterator[Skip]:
    """Fill ``found``: question id -> (answers, meta), or the `BadRow` of a broken annotation."""
    for where, row in elements(path, "annotations"):
        try:
            if isinstance(row, BadRow):
                raise row
            key = forms.id_text(ident(typed(row, dict, "annotation"), "question_id"))
            if key in found:
                raise BadRow("a second annotation of a question", f"question_id {key}")
        except BadRow as bad:
            yield Skip(where, bad.reason, bad.detail)
            continue
        try:
            found[key] = given(row), extras(row, "answer_type", "question_type", "confidence")
        except BadRow as bad:
            found[key] = bad


def _joined(name: str, split: str, questions: Path, annotations: Path | None, where: Store) -> Stream:
    found: Annotations = {}
    held = 0
    if annotations:
        for skip in _annotations(annotations, found):
            held += 1
            yield skip
    folder = SUBTYPES[split].replace("-dev", "")

    def make(row: SourceRow) -> Iterator[Made]:
        fields: dict[str, Any] = {"answers": ()}
        if annotations:
            annotation = found.pop(forms.id_text(ident(row, "question_id")), None)
            if annotation is None:
                raise BadRow("no annotation", f"question_id {row['question_id']}")
            if isinstance(annotation, BadRow):
                raise annotation
            fields = {**answer_fields(annotation[0]), "meta": annotation[1]}
        image_id = ident(row, "image_id")
        path = coco_picture(where, image_id, folder)
        yield _record(name, split, row, image_id, **fields), (Media(path),)

    def stands_for(row: SourceRow) -> int:
        return 1 + (forms.id_text(row.get("question_id")) in found)

    held += yield from drafts(elements(questions, "questions"), make, stands_for)
    for left in found:
        yield Skip(f"{annotations}:{left}", "no such question", "an annotation without a question")
    return held + len(found)


def _listed(name: str, split: str, path: Path, where: Store) -> Iterator[Draft | Skip]:
    """The drafts of LAVIS's rows: {question_id, question, answer: [ten answers], image}."""

    def make(row: SourceRow) -> Iterator[Made]:
        image_id, picture = listed_image(where, row)
        answer = row.get("answer")
        answers = (answer_text(answer),) if not isinstance(answer, list) else texts(row, "answer")
        yield _record(name, split, row, image_id, **answer_fields(answers)), (Media(picture),)

    return drafts(elements(path), make)


def _splits(name: str, prefix: str, copy: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = coco_store(source, images)
    splits: dict[str, Rows] = {}
    for split, subtype in SUBTYPES.items():
        questions = find(source, *places(f"{prefix}OpenEnded_mscoco_{subtype}_questions.json"))
        annotations = find(
            source.parent if source.is_file() else source, *places(f"{prefix}mscoco_{subtype}_annotations.json")
        )
        if questions and (annotations or split not in ANSWERED):
            splits[split] = partial(_joined, name, split, questions, annotations, where)
        elif split in ANSWERED and (path := find(source, *places(f"{copy}_{split}.json"))):
            splits[split] = partial(_listed, name, split, path, where)
    wanted = (
        f"{prefix}OpenEnded_mscoco_{{train2014,val2014,...}}_questions.json with "
        f"{prefix}mscoco_{{train2014,val2014}}_annotations.json",
        f"{copy}_{{train,val}}.json",
    )
    return nonempty(splits, source, *wanted)


VQAV2 = Release(
    partial(_splits, "vqav2", "v2_", "vqa"),
    {"train": 443_757, "val": 214_354, "test": 447_793, "test-dev": 107_394},
)
OKVQA = Release(partial(_splits, "okvqa", "", "okvqa"), {"train": 9_009, "val": 5_046})
