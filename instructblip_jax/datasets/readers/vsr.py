"""VSR: splits/{random,zeroshot}/{train,dev,test}.jsonl, a statement a line, 1 for true.

The answer is yes or no; which other words count as either is the metric's matter. The votes, lists in some copies and
texts that hold lists in others, are not read. Pictures: images/, trainval2017/ or COCO 2017.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import Row, full_text, index, need, told
from instructblip_jax.datasets.readers.json_files import json_lines
from instructblip_jax.datasets.readers.rows import Made, drafts, judged, some
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "vsr"
NO_YES = ("no", "yes")
"""The candidates of a yes/no set: ``label`` is the right one's number in them."""


def _make(where: Store, split: str, row: Row) -> Iterator[Made]:
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
        meta=told(row, "relation", "subj", "obj", "reference_frame", "annotator_id"),
        **judged((NO_YES[label],)),
    )
    folders = ("images", "trainval2017", "train2017", "val2017")
    yield record, (Media(where.find(*(f"{folder}/{image}" for folder in folders), image)),)


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    """Rows have no id: the number of its line, from 0, is a statement's."""
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
            if source.is_file():  # its folder tells the kind
                path = source if source.resolve().parts[-2:] == (kind, f"{part}.jsonl") else None
            else:
                path = next((found for found in (source / "splits" / name, source / name) if found.is_file()), None)
            if path:
                splits[f"{kind}/{part}"] = partial(_rows, path, f"{kind}/{part}", where)
    return some(splits, source, "splits/{random,zeroshot}/{train,dev,test}.jsonl")


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
