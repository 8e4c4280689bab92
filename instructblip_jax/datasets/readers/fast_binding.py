"""Reads the benchmarks of Frozen (arXiv 2106.13884): questions after examples that bind names to categories.

The archives open_ended_mi and real_name_mi (miniImageNet with made-up and with real names), fast_vqa and guided_vqa
have files NAME_shots_S_ways_W_all_questions.json, lists of {image_1, caption_1, image_2, ..., question_image,
question, answer} with S examples of each of W names, and the images next to them. A split is one file:
"shots_S_ways_W".

A record's parts are the examples and the question in the file's order; its instruction is all of them as one text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, nonempty, numbered
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.processors.base import MARK

NAMES = ("open_ended_mi", "real_name_mi", "fast_vqa", "guided_vqa")
_FILE = re.compile(r"(?P<name>\w+)_(?P<split>shots_(?P<shots>\d+)_ways_(?P<ways>\d+))_all_questions\.json")


def _picture(where: Store, row: SourceRow, field: str) -> Media:
    image = full_text(row, field)
    return Media(where.find(image, image.rsplit("/", 1)[-1]))


def _make(name: str, split: str, examples: int, where: Store, row: SourceRow) -> Iterator[Made]:
    if f"image_{examples + 1}" in row:
        raise BadRow("more examples than the file's name says", f"image_{examples + 1}")
    numbers = range(1, examples + 1)
    media = [_picture(where, row, f"image_{n}") for n in numbers]
    captions = [full_text(row, f"caption_{n}") for n in numbers]
    question = full_text(row, "question")
    parts = tuple(part for n, text in enumerate((*captions, question)) for part in (n, text))
    record = Record(
        uid=f"{name}/{split}/{row['number']}",
        dataset=name,
        split=split,
        task="vqa",
        media=(),
        slots={"question": question},
        instruction="".join(part if isinstance(part, str) else MARK for part in parts),
        question_id=row["number"],
        parts=parts,
        **answer_fields((full_text(row, "answer"),)),
    )
    yield record, (*media, _picture(where, row, "question_image"))


def _rows(name: str, path: Path, split: str, examples: int, where: Store) -> Iterator[Draft | Skip]:
    return drafts(numbered(elements(path)), partial(_make, name, split, examples, where))


def _splits(name: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, name)
    splits: dict[str, Rows] = {}
    folders = (source, source / name)
    paths = [source] if source.is_file() else sorted(path for folder in folders for path in folder.glob("*.json"))
    for path in paths:
        found = _FILE.fullmatch(path.name)
        if found and found["name"] == name:
            examples = int(found["shots"]) * int(found["ways"])
            splits.setdefault(found["split"], partial(_rows, name, path, found["split"], examples, where))
    return nonempty(splits, source, f"{name}_shots_{{1,3,5}}_ways_{{2,5}}_all_questions.json")


RELEASES = {name: Release(partial(_splits, name)) for name in NAMES}
