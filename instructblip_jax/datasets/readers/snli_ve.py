"""Reads SNLI-VE: an image of Flickr30K contradicts a hypothesis, is neutral to it, or entails it.

The files are snli_ve_{train,dev,test}.jsonl, or ALBEF's and LAVIS's lists ve_{train,dev,test}.json, rows {image,
sentence, label}, whose ``image`` is a Flickr number. Images: flickr30k-images/NUMBER.jpg.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, extras, full_text, ident, need
from instructblip_jax.datasets.readers.json_files import elements, json_lines
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, numbered, places
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "snli_ve"
CLASSES = ("contradiction", "neutral", "entailment")
"""The candidates, in the order of ALBEF's classes; ``label`` is the index of the right one."""
SPLITS = ("train", "dev", "test")
NUMBER = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID", "image")
"""The possible fields for an image's number."""


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    field = next((name for name in NUMBER if name in row), NUMBER[0])
    image_id = str(ident(row, field)).removesuffix(".jpg")
    name = "gold_label" if "gold_label" in row else "label"
    said = full_text(row, name)
    if said not in CLASSES:
        raise BadRow("label outside the candidates", f"{name}: {said[:40]}")
    record = Record(
        uid=f"{NAME}/{split}/{row['number']}",
        dataset=NAME,
        split=split,
        task="choice",
        media=(),
        slots={"sentence": full_text(row, "sentence2" if "sentence2" in row else "sentence")},
        candidates=CLASSES,
        label=CLASSES.index(said),
        image_id=image_id,
        question_id=need(row, "number"),
        meta=extras(row, "pairID", "captionID", "annotator_labels"),
        **answer_fields((said,)),
    )
    file = f"{image_id}.jpg"
    yield record, (Media(where.find(f"flickr30k-images/{file}", f"flickr30k_images/{file}", file)),)


def _rows(path: Path, split: str, where: Store) -> Stream:
    entries = json_lines(path) if path.suffix == ".jsonl" else elements(path)
    return drafts(numbered(entries), partial(_make, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..", "../flickr30k")
    names = {split: (f"snli_ve_{split}.jsonl", f"ve_{split}.json") for split in SPLITS}
    found = {split: find(source, *places(lines), *places(rows)) for split, (lines, rows) in names.items()}
    splits: dict[str, Rows] = {split: partial(_rows, path, split, where) for split, path in found.items() if path}
    return nonempty(splits, source, "snli_ve_{train,dev,test}.jsonl", "ve_{train,dev,test}.json")


RELEASE = Release(_splits, {"train": 529_527, "dev": 17_858, "test": 17_901})
