"""Reads images with captions, in the forms that the caption sets share.

A training split has one record per caption; an evaluation split has one per image, with all its captions as references.
The files are Karpathy's (dataset_*.json), LAVIS's lists (*_train.json: one row per caption; *_val.json, *_test.json:
one row per image), or in COCO's form (`images` and `annotations`).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Skip, Stream
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.fields import (
    BadRow,
    SourceRow,
    caption,
    captions,
    distinct,
    ident,
    need,
    one_line,
    typed,
)
from instructblip_jax.datasets.readers.json_files import Entry, elements
from instructblip_jax.datasets.readers.source_rows import Made, OtherSplit, drafts, training

KARPATHY = ("train", "restval", "val", "test")
"""The split names in Karpathy's files."""
Picture = tuple[int | str, Path | Media | tuple[Media, ...], dict[str, Any]]
"""Id, path and meta of an image or another medium with captions."""


def records(name: str, split: str, picture: Picture, values: Any, start: int = 0) -> Iterator[Made]:
    """The records of an image. ``values``: its captions, unchecked; training records number them from ``start``."""
    image_id, shown, meta = picture
    uid = f"{name}/{split}/{image_id}"
    media = (Media(shown),) if isinstance(shown, Path) else (shown,) if isinstance(shown, Media) else shown
    if training(split):
        for number, value in enumerate(typed(values, list, "captions"), start):
            try:
                answers = (caption(value),)
            except BadRow as bad:
                yield bad
            else:
                yield (
                    Record(f"{uid}#{number}", name, split, "caption", (), {}, answers, image_id=image_id, meta=meta),
                    media,
                )
    else:
        found = captions(values)
        yield (
            Record(
                uid, name, split, "caption", (), {}, distinct(found), references=found, image_id=image_id, meta=meta
            ),
            media,
        )


def karpathy(
    path: Path, name: str, split: str, parts: Sequence[str], picture: Callable[[SourceRow], Picture]
) -> Iterator[Draft | Skip]:
    """One split of Karpathy's dataset_*.json: the images whose own split is one of ``parts``."""

    def make(row: SourceRow) -> Iterator[Made]:
        own = typed(need(row, "split"), str, "split")
        if own not in KARPATHY and training(split):  # reported once, not for every split
            raise BadRow("unknown split", own[:40])
        if own not in parts:
            yield OtherSplit()
        else:
            texts = [
                entry.get("raw") if isinstance(entry, dict) else None
                for entry in typed(need(row, "sentences"), list, "sentences")
            ]
            yield from records(name, split, picture(row), texts)

    return drafts(elements(path, "images"), make)


def listed(path: Path, name: str, split: str, picture: Callable[[SourceRow], Picture]) -> Stream:
    """One split in LAVIS's form: rows {image, caption}, where the caption is a string or a list of strings."""
    return listing(elements(path), name, split, picture)


def listing(
    entries: Iterator[Entry], name: str, split: str, picture: Callable[[SourceRow], Picture], field: str = "caption"
) -> Stream:
    """One split of rows with a caption or a list of captions in ``field``."""
    seen: dict[int | str, int] = {}

    def make(row: SourceRow) -> Iterator[Made]:
        found, value = picture(row), need(row, field)
        values = [value] if isinstance(value, str) else value
        start = seen.get(found[0], 0)
        if training(split):  # each caption of an image is a separate row
            seen[found[0]] = start + len(typed(values, list, field))
        yield from records(name, split, found, values, start)

    return drafts(entries, make)


def coco_form(path: Path, name: str, split: str, picture: Callable[[SourceRow], Picture]) -> Stream:
    """One split in COCO's form. Captions are kept in memory, images are streamed; an image without captions is
    skipped."""
    texts: dict[str | None, list[Any]] = {}
    broken = 0
    for where, row in elements(path, "annotations"):
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow("not an object")
            texts.setdefault(forms.id_text(ident(row, "image_id")), []).append(row.get("caption"))
        except BadRow as bad:
            broken += 1
            yield Skip(where, bad.reason, bad.detail)

    def make(row: SourceRow) -> Iterator[Made]:
        values = texts.pop(forms.id_text(ident(row, "id")), None)
        if values is None:
            raise BadRow("empty answer", "no caption")
        yield from records(name, split, picture(row), values)

    def stands_for(row: SourceRow) -> int:
        return 1 + len(texts.get(forms.id_text(row.get("id")), ()))

    held = broken + (yield from drafts(elements(path, "images"), make, stands_for))
    for left, values in texts.items():
        yield Skip(f"{path}:{left}", "no such picture", "captions without a picture", len(values))
        held += len(values)
    return held


def by_picture(
    entries: Iterator[Entry], name: str, split: str, field: str, picture: Callable[[SourceRow], Picture]
) -> Stream:
    """An evaluation split from rows with one caption each, in ``field``: one record per image, in file order."""
    pictures: dict[int | str, tuple[str, Picture, list[str]]] = {}
    held = 0
    for where, row in entries:
        held += 1
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow("not an object")
            found = picture(row)
            text = one_line(typed(need(row, field), str, field))
            pictures.setdefault(found[0], (where, found, []))[2].append(text)
        except BadRow as bad:
            yield Skip(where, bad.reason, bad.detail)
    for where, found, values in pictures.values():
        try:
            for record, media in records(name, split, found, values):  # type: ignore[misc]
                yield Draft(where, record, media, rows=len(values))
        except BadRow as bad:
            yield Skip(where, bad.reason, bad.detail, len(values))
    return held
