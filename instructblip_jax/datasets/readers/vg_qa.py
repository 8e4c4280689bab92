"""Reads Visual Genome's questions and answers, with which ALBEF and BLIP train question answering next to VQAv2.

The files are question_answers.json, a list of {id, qas: [{qa_id, image_id, question, answer}]}, or the lists of ALBEF
and LAVIS: vg_qa.json, rows {image, question, answer, question_id}.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, answer_text, full_text, ident, need, typed
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.pretraining import VISUAL_GENOME, vg_picture, vg_store
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store
from instructblip_jax.datasets.readers.web_pairs import find_picture

NAME = "vg_qa"
OFFICIAL, LIST = "question_answers.json", "vg_qa.json"


def _record(row: SourceRow, question_id: int | str, image_id: str) -> Record:
    return Record(
        uid=f"{NAME}/train/{question_id}",
        dataset=NAME,
        split="train",
        task="vqa",
        media=(),
        slots={"question": full_text(row, "question")},
        image_id=image_id,
        question_id=question_id,
        **answer_fields((answer_text(need(row, "answer")),)),
    )


def _of_picture(where: Store, row: SourceRow) -> Iterator[Made]:
    image_id = ident(row, "id")
    path = vg_picture(where, image_id)
    asked_about = typed(need(row, "qas"), list, "qas")
    if not asked_about:
        raise BadRow("no question about the picture")
    for entry in asked_about:
        try:
            asked = typed(entry, dict, "qas")
            yield _record(asked, ident(asked, "qa_id"), str(image_id)), (Media(path),)
        except BadRow as bad:
            yield bad


def _official(path: Path, where: Store) -> Stream:
    return drafts(elements(path), partial(_of_picture, where))


def _of_list(where: Store, row: SourceRow) -> Iterator[Made]:
    image = full_text(row, "image")
    picture = find_picture(where, image, VISUAL_GENOME)
    yield _record(row, ident(row, "question_id"), Path(image).stem), (Media(picture),)


def _listed(path: Path, where: Store) -> Stream:
    return drafts(elements(path), partial(_of_list, where))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = vg_store(source, images)
    splits: dict[str, Rows] = {}
    if path := find(source, *places(LIST)):
        splits["train"] = partial(_listed, path, where)
    elif path := find(source, *places(OFFICIAL)):
        splits["train"] = partial(_official, path, where)
    return nonempty(splits, source, LIST, OFFICIAL)


RELEASE = Release(_splits)
