"""Reads TextCaps: TextCaps_0.1_{train,val,test}.json, one row per caption; test has no captions.

"val_images" is the validation split with one record per image and all its captions. Images: Open Images in
train_images/ (train and val) and test_images/. TextVQA's Rosetta OCR files, in the source or in ../textvqa, fill the
slot ``ocr``; without them it is empty.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers import captioned, rosetta
from instructblip_jax.datasets.readers.captioned import Picture
from instructblip_jax.datasets.readers.fields import SourceRow, caption, captions, extras, full_text, ident, need
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "textcaps"


def open_image(where: Store, image_id: str, split: str) -> Path:
    """The path of an image from the zip files of TextVQA and TextCaps."""
    own, other = ("test_images", "train_images") if split == "test" else ("train_images", "test_images")
    return where.find(*(f"{folder}{image_id}.jpg" for folder in (f"{own}/", f"{other}/", "")))


def _words(
    words: Mapping[str, tuple[str, ...]], row: SourceRow, image_id: str
) -> tuple[dict[str, str], dict[str, object]]:
    """The slots and meta with the image's OCR words."""
    found = rosetta.tokens(row) or words.get(image_id, ())
    return {"ocr": rosetta.shown(found)}, {"ocr": list(found)}


def _captions(path: Path, split: str, source: Path, where: Store) -> Iterator[Draft | Skip]:
    words = rosetta.read(source, split)

    def make(row: SourceRow) -> Iterator[Made]:
        image_id = full_text(row, "image_id")
        slots, meta = _words(words, row, image_id)
        uid = f"{NAME}/{split}/{ident(row, 'caption_id')}"
        record = Record(uid, NAME, split, "caption", (), slots, (), image_id=image_id)
        record = replace(record, meta=meta | extras(row, "image_classes", "caption_id"))
        if split != "test" or "caption_str" in row:
            record = replace(record, answers=(caption(need(row, "caption_str")),))
        if split == "val":
            record = replace(record, references=captions(row.get("reference_strs", row["caption_str"])))
        yield record, (Media(open_image(where, image_id, split)),)

    return drafts(elements(path, "data"), make)


def _pictures(path: Path, source: Path, where: Store) -> Iterator[Draft | Skip]:
    words, rows = rosetta.read(source, "val"), dict[str, SourceRow]()

    def picture(row: SourceRow) -> Picture:
        image_id = full_text(row, "image_id")
        rows.setdefault(image_id, {"ocr_tokens": row.get("ocr_tokens"), **extras(row, "image_classes")})
        return image_id, open_image(where, image_id, "val"), extras(row, "image_classes")

    for draft in captioned.by_picture(elements(path, "data"), NAME, "val_images", "caption_str", picture):
        if isinstance(draft, Draft):
            image_id = str(draft.record.image_id)
            slots, meta = _words(words, rows[image_id], image_id)
            draft = replace(draft, record=replace(draft.record, slots=slots, meta=meta | dict(draft.record.meta)))
        yield draft


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images", "../textvqa", "..")
    folder = source.parent if source.is_file() else source
    splits: dict[str, Rows] = {}
    for split in ("train", "val", "test"):
        if path := find(source, *places(f"TextCaps_0.1_{split}.json")):
            splits[split] = partial(_captions, path, split, folder, where)
            if split == "val":
                splits["val_images"] = partial(_pictures, path, folder, where)
    return nonempty(splits, source, "TextCaps_0.1_{train,val,test}.json")


RELEASE = Release(_splits, {"train": 109_765, "val": 15_830, "val_images": 3_166, "test": 3_289})
