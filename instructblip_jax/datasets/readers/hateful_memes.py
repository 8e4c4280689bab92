"""Reads Hateful Memes: {train,dev_seen,dev_unseen,test_seen,test_unseen}.jsonl.

The dev.jsonl and test.jsonl of older releases are read only if dev_seen.jsonl or test_seen.jsonl is missing. Label 1
(hateful) is "yes". Images: the path in ``img``, which is in img/.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import SourceRow, full_text, ident, index, need, text
from instructblip_jax.datasets.readers.json_files import json_lines
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.vsr import NO_YES

NAME = "hateful_memes"
OLDER = {"dev_seen": "dev", "test_seen": "test"}


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    number, image = ident(row, "id"), full_text(row, "img")
    fields: dict[str, Any] = {"answers": ()}
    if "label" in row or not split.startswith("test"):
        label = index(need(row, "label"), 2, "label")
        fields = {**answer_fields((NO_YES[label],)), "label": label}
    record = Record(
        uid=f"{NAME}/{split}/{number}",
        dataset=NAME,
        split=split,
        task="binary",
        media=(),
        slots={"text": text(row, "text")},
        candidates=NO_YES,
        image_id=number,
        question_id=number,
        **fields,
    )
    yield record, (Media(where.find(image, image.rsplit("/", 1)[-1])),)


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    return drafts(json_lines(path), partial(_make, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "data", "..")
    splits: dict[str, Rows] = {}
    for split in ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen"):
        names = [split, OLDER[split]] if split in OLDER else [split]
        if path := find(
            source, *(place for name in names for place in (*places(f"{name}.jsonl"), f"data/{name}.jsonl"))
        ):
            splits[split] = partial(_rows, path, split, where)
    return nonempty(splits, source, "{train,dev_seen,dev_unseen,test_seen,test_unseen}.jsonl", "{dev,test}.jsonl")


EXPECTED = {"train": 8_500, "dev_seen": 500, "dev_unseen": 540, "test_seen": 1_000, "test_unseen": 2_000}
RELEASE = Release(_splits, EXPECTED)
