"""Pictures with captions: what all caption sets share.

A training split has one record a caption, an evaluation split one a picture with all captions as references. The files
are Karpathy's (dataset_*.json), LAVIS's lists (*_train.json: a caption a row, *_val.json, *_test.json: a picture a row)
or of COCO's form (`images` and `annotations`).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Skip, Stream
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.fields import Bad, Row, caption, captions, distinct, ident, need, one_line, typed
from instructblip_jax.datasets.readers.json_files import Entry, elements
from instructblip_jax.datasets.readers.rows import Elsewhere, Made, drafts, training

KARPATHY = ("train", "restval", "val", "test")
"""The splits that his files name."""
Picture = tuple[int | str, Path, dict[str, Any]]
"""Its id, where it lies, and what else is told about it."""


def records(name: str, split: str, picture: Picture, values: Any, start: int = 0) -> Iterator[Made]:
    """A picture's records: of the captions ``values`` (a list that may hold anything), counted from ``start``."""
    image_id, path, meta = picture
    uid, media = f"{name}/{split}/{image_id}", (Media(path),)
    if training(split):
        for number, value in enumerate(typed(values, list, "captions"), start):
            try:
                answers = (caption(value),)
            except Bad as bad:
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
    path: Path, name: str, split: str, parts: Sequence[str], picture: Callable[[Row], Picture]
) -> Iterator[Draft | Skip]:
    """A split of dataset_coco.json or dataset_flickr30k.json: the pictures whose own split is one of ``parts``."""

    def make(row: Row) -> Iterator[Made]:
        own = typed(need(row, "split"), str, "split")
        if own not in KARPATHY and training(split):  # told once
            raise Bad("unknown split", own[:40])
        if own not in parts:
            yield Elsewhere()
        else:
            said = [
                entry.get("raw") if isinstance(entry, dict) else None
                for entry in typed(need(row, "sentences"), list, "sentences")
            ]
            yield from records(name, split, picture(row), said)

    return drafts(elements(path, "images"), make)


def listed(path: Path, name: str, split: str, picture: Callable[[Row], Picture]) -> Iterator[Draft | Skip]:
    """A split of LAVIS's form: rows {image, caption}, the caption a text or a list of them."""
    seen: dict[int | str, int] = {}

    def make(row: Row) -> Iterator[Made]:
        found, said = picture(row), need(row, "caption")
        values = [said] if isinstance(said, str) else said
        start = seen.get(found[0], 0)
        if training(split):  # a picture comes back with each of its captions
            seen[found[0]] = start + len(typed(values, list, "caption"))
        yield from records(name, split, found, values, start)

    return drafts(elements(path), make)


def coco_form(path: Path, name: str, split: str, picture: Callable[[Row], Picture]) -> Stream:
    """A split of COCO's form. Captions are held in memory; pictures stream. One without captions is skipped."""
    said: dict[str | None, list[Any]] = {}
    broken = 0
    for where, row in elements(path, "annotations"):
        try:
            if isinstance(row, Bad):
                raise row
            if not isinstance(row, dict):
                raise Bad("not an object")
            said.setdefault(forms.id_text(ident(row, "image_id")), []).append(row.get("caption"))
        except Bad as bad:
            broken += 1
            yield Skip(where, bad.reason, bad.detail)

    def make(row: Row) -> Iterator[Made]:
        values = said.pop(forms.id_text(ident(row, "id")), None)
        if values is None:
            raise Bad("empty answer", "no caption")
        yield from records(name, split, picture(row), values)

    def stands_for(row: Row) -> int:
        return 1 + len(said.get(forms.id_text(row.get("id")), ()))

    held = broken + (yield from drafts(elements(path, "images"), make, stands_for))
    for left, values in said.items():
        yield Skip(f"{path}:{left}", "no such picture", "captions without one", len(values))
        held += len(values)
    return held


def by_picture(
    entries: Iterator[Entry], name: str, split: str, field: str, picture: Callable[[Row], Picture]
) -> Stream:
    """An evaluation split out of rows with a caption each in ``field``: a record a picture, the first seen first."""
    pictures: dict[int | str, tuple[str, Picture, list[str]]] = {}
    held = 0
    for where, row in entries:
        held += 1
        try:
            if isinstance(row, Bad):
                raise row
            if not isinstance(row, dict):
                raise Bad("not an object")
            found = picture(row)
            text = one_line(typed(need(row, field), str, field))
            pictures.setdefault(found[0], (where, found, []))[2].append(text)
        except Bad as bad:
            yield Skip(where, bad.reason, bad.detail)
    for where, found, values in pictures.values():
        try:
            for record, media in records(name, split, found, values):  # type: ignore[misc]
                yield Draft(where, record, media, rows=len(values))
        except Bad as bad:
            yield Skip(where, bad.reason, bad.detail, len(values))
    return held
