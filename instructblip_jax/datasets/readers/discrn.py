"""Reads DisCRn: the question which of two media of different kinds has a property (X-InstructBLIP, arXiv 2311.18799).

discrn_av: audiocaps.json, audio and video; discrn_i3d: objaverse.json, a view and a point cloud; rows {sample_ids,
question, label, properties, captions, start_seconds}. In "val" the answers alternate, starting with "second"; if the
file has another answer, everything about the two media is exchanged. "val_swapped" has the same questions with the
media in the other order. Both are evaluated, and their scores are broken down as domains.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers.audiocaps import SECONDS, film, folders_of, names_of, seconds
from instructblip_jax.datasets.readers.cap3d import points
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text, index, need, typed
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.recordings import recording
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, numbered, places
from instructblip_jax.datasets.readers.stores import Store, store

AV, I3D = "discrn_av", "discrn_i3d"
FILES = {AV: "audiocaps.json", I3D: "objaverse.json"}
SIDES = ("first", "second")
SPLITS = {"val": "as listed", "val_swapped": "media exchanged"}
VIEWS = 8
_WHICH = re.compile(r"\bwhich (entity|object|image|audio)\b")
_KIND = re.compile(r"\b(audio|image)\b")
Show = Callable[[Store, SourceRow, tuple[int, int]], tuple[Media, Media]]
"""(store, row, indices of its items in order) -> their media."""


def worded(question: str) -> str:
    """The question in words that do not reveal a kind of medium."""
    asked = _WHICH.sub("which of the two options", question.lower())
    return _KIND.sub("object", asked).rstrip("? .") + "?"


def _two(row: SourceRow, name: str) -> list[Any]:
    found = typed(need(row, name), list, name)
    if len(found) != 2:
        raise BadRow("wrong type", f"{name}: {len(found)} entries, not 2")
    return found


def _heard_and_seen(where: Store, row: SourceRow, order: tuple[int, int]) -> tuple[Media, Media]:
    own = [str(item) for item in _two(row, "sample_ids")]
    starts = [seconds(item, "start_seconds") for item in _two(row, "start_seconds")]
    heard, seen = order
    sound = recording(
        where, names_of(own[heard], starts[heard]), folders_of("val"), starts[heard], starts[heard] + SECONDS
    )
    return sound, film(where, own[seen], starts[seen], "val")


def _seen_and_felt(where: Store, row: SourceRow, order: tuple[int, int]) -> tuple[Media, Media]:
    own = [str(item) for item in _two(row, "sample_ids")]
    seen = own[order[0]]
    views = [2, *(view for view in range(VIEWS) if view != 2)]
    folders = [f"{above}Cap3D_imgs_view{view}/" for view in views for above in (f"compressed_imgs_view{view}/", "")]
    files = [f"{folder}{seen}_{folder[-2]}.{end}" for folder in folders for end in ("jpeg", "jpg", "png")]
    return Media(where.find(*files, *(f"{seen}.{end}" for end in ("jpeg", "jpg", "png")))), points(where, own[order[1]])


def _make(name: str, split: str, show: Show, where: Store, row: SourceRow) -> Iterator[Made]:
    number, label = row["number"], index(need(row, "label"), 2, "label")
    right = (number + 1) % 2 if split == "val" else number % 2
    order = (0, 1) if label == right else (1, 0)
    properties, captions = ([str(item) for item in _two(row, field)] for field in ("properties", "captions"))
    record = Record(
        uid=f"{name}/{split}/{number}",
        dataset=name,
        split=split,
        task="choice",
        media=(),
        slots={"question": worded(full_text(row, "question"))},
        candidates=SIDES,
        label=right,
        question_id=number,
        meta={
            "domain": SPLITS[split],
            "properties": [properties[n] for n in order],
            "captions": [captions[n] for n in order],
        },
        **answer_fields((SIDES[right],)),
    )
    yield record, show(where, row, order)


def _rows(path: Path, name: str, split: str, show: Show, where: Store) -> Stream:
    return drafts(numbered(elements(path)), partial(_make, name, split, show, where))


def _splits(name: str, show: Show, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "../audiocaps", "../cap3d", "../objaverse")
    path = find(source, *places(FILES[name]), *places(f"{name}.json"))
    splits: dict[str, Rows] = {split: partial(_rows, path, name, split, show, where) for split in SPLITS if path}
    return nonempty(splits, source, FILES[name], f"{name}.json")


RELEASES = {
    AV: Release(partial(_splits, AV, _heard_and_seen), dict.fromkeys(SPLITS, 8_802)),
    I3D: Release(partial(_splits, I3D, _seen_and_felt), dict.fromkeys(SPLITS, 28_173)),
}
