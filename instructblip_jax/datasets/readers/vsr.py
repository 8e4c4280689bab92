"""Reads VSR: splits/{random,zeroshot}/{train,dev,test}.jsonl, one statement per line, label 1 for true.

The answer is "yes" or "no"; the metric decides which other words count as either. The votes are not read: some copies
have them as lists, others as text. Images: images/, trainval2017/ or COCO 2017.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import SourceRow, extras, full_text, index, need
from instructblip_jax.datasets.readers.json_files import json_lines
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, nonempty
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "vsr"
NO_YES = ("no", "yes")
"""The candidates of a yes/no set; ``label`` is the index of the correct one."""


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    number = row["line"]
    image = full_text(row, "image")
    label = index(need(row, "label"), 2, "label")
    record = Record(
        uid=f"{NAME}/{split}/{number}",
        dataset=NAME,
        split=split,
        task="binary",
        media=(),
        slots={"statement": full_text(row, "caption")},
        candidates=NO_YES,
        label=label,
        image_id=image.rsplit("/", 1)[-1].rsplit(".", 1)[0],
        question_id=number,
        meta=extras(row, "relation", "subj", "obj", "reference_frame", "annotator_id"),
        **answer_fields((NO_YES[label],)),
    )
    folders = ("images", "trainval2017", "train2017", "val2017")
    yield record, (Media(where.find(*(f"{folder}/{image}" for folder in folders), image)),)


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    """The drafts of a file. Rows have no id, so a statement's id is its line number, from 0."""
    numbered = (
        (place, {**row, "line": int(place.rsplit(":", 1)[1]) - 1} if isinstance(row, dict) else row)
        for place, row in json_lines(path)
    )
    return drafts(numbered, partial(_make, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..", "../coco")
    splits: dict[str, Rows] = {}
    for kind in ("random", "zeroshot"):
        for part in ("train", "dev", "test"):
            name = f"{kind}/{part}.jsonl"
            if source.is_file():  # its folder names the kind
                path = source if source.resolve().parts[-2:] == (kind, f"{part}.jsonl") else None
            else:
                path = next((found for found in (source / "splits" / name, source / name) if found.is_file()), None)
            if path:
                splits[f"{kind}/{part}"] = partial(_rows, path, f"{kind}/{part}", where)
    return nonempty(splits, source, "splits/{random,zeroshot}/{train,dev,test}.jsonl")


RELEASE = Release(
    _splits,
    {
        "random/train": 7_680,
        "random/dev": 1_097,
        "random/test": 2_195,
        "zeroshot/train": 3_489,
        "zeroshot/dev": 340,
        "zeroshot/test": 1_222,
    },
)
