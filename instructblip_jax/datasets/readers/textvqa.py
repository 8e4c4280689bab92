"""Reads TextVQA: TextVQA_0.5.1_{train,val,test}.json, where test has no answers.

TextVQA_Rosetta_OCR_v0.2_{train,val,test}.json fill the slot ``ocr``. Images: train_images/ (train and val) and
test_images/.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers import rosetta
from instructblip_jax.datasets.readers.fields import SourceRow, extras, full_text, ident, texts
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.textcaps import open_image

NAME = "textvqa"


def _rows(path: Path, split: str, source: Path, where: Store) -> Iterator[Draft | Skip]:
    read = rosetta.read(source, split)

    def make(row: SourceRow) -> Iterator[Made]:
        image_id, question_id = full_text(row, "image_id"), ident(row, "question_id")
        words = rosetta.tokens(row) or read.get(image_id, ())
        blind = split == "test" and "answers" not in row
        record = Record(
            uid=f"{NAME}/{split}/{question_id}",
            dataset=NAME,
            split=split,
            task="vqa",
            media=(),
            slots={"question": full_text(row, "question"), "ocr": rosetta.shown(words)},
            image_id=image_id,
            question_id=question_id,
            meta={"ocr": list(words), **extras(row, "image_classes")},
            **({"answers": ()} if blind else answer_fields(texts(row, "answers"))),
        )
        yield record, (Media(open_image(where, image_id, split)),)

    return drafts(elements(path, "data"), make)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images", "..")
    folder = source.parent if source.is_file() else source
    splits: dict[str, Rows] = {}
    for split in ("train", "val", "test"):
        if path := find(source, *places(f"TextVQA_0.5.1_{split}.json")):
            splits[split] = partial(_rows, path, split, folder, where)
    return nonempty(splits, source, "TextVQA_0.5.1_{train,val,test}.json")


RELEASE = Release(_splits, {"train": 34_602, "val": 5_000, "test": 5_734})
