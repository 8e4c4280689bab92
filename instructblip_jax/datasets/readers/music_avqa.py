"""Reads MusicAVQA: avqa-{train,val,test}.json, or json_update/'s, rows {video_id, question_id, type, question_content,
templ_values, question_deleted, anser}; the answer's key is spelt in this way.

A record has the frames and the audio track of one video: split "test" has both, "test_audio" and "test_video" one of
them; the same for "val". Every slot of a question (<Object>, <LR>, ...) is filled, in order, from templ_values. Scores
are broken down by type. Videos: videos/, MUSIC-AVQA-videos-{Real,Synthetic}/, or the images given; ids are texts,
including leading zeros.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import AUDIO, Record
from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, answer_text, full_text, ident, need
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.videos import video

NAME = "music_avqa"
FOLDERS = (
    *("videos", "MUSIC-AVQA-videos-Real", "MUSIC-AVQA-videos-Synthetic", "MUSIC-AVQA-videos"),
    *("real_video", "fake_video", ""),
)
SENSES = ("", "_audio", "_video")
_SLOT = re.compile(r"<\w+>")


def listed(told: Any, name: str) -> list[str]:
    """The texts of a list written as a string, in JSON or Python syntax. Raises BadRow for another form."""
    try:
        found = ast.literal_eval(told) if isinstance(told, str) and told.strip() else told or []
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadRow("wrong type", f"{name}: {told[:60]!r}") from error
    if not isinstance(found, (list, tuple)):
        raise BadRow("wrong type", f"{name}: {str(told)[:60]!r}")
    return [str(item) for item in found]


def filled(question: str, values: Sequence[str]) -> str:
    """The question with its slots filled in order. Raises BadRow if there are more or fewer values than slots."""
    slots = _SLOT.findall(question)
    if len(slots) != len(values):
        raise BadRow("slots and values differ in number", f"{question[:80]}: {len(values)} values")
    rest = iter(values)
    return _SLOT.sub(lambda match: next(rest), question).replace("？", "?")


def _make(split: str, shown: str, where: Store, row: SourceRow) -> Iterator[Made]:
    if row.get("question_deleted") in (1, "1", True):
        raise BadRow("deleted question")
    own = forms.id_text(need(row, "video_id"))
    if own is None:
        raise BadRow("wrong type", "video_id")
    film = video(where, [own], FOLDERS, f"{FOLDERS[0]}/{own}.mp4")
    sound = Media(film.path, kind=AUDIO)
    question_id = ident(row, "question_id")
    kind = listed(row.get("type"), "type")
    record = Record(
        uid=f"{NAME}/{split}/{question_id}",
        dataset=NAME,
        split=split,
        task="vqa",
        media=(),
        slots={"question": filled(full_text(row, "question_content"), listed(row.get("templ_values"), "templ_values"))},
        image_id=own,
        question_id=question_id,
        meta={"answer_type": [kind[0], " ".join(kind)]} if kind else {},
        **answer_fields((answer_text(need(row, "anser"), "anser"),)),
    )
    yield record, {"": (film, sound), "_audio": (sound,), "_video": (film,)}[shown]


def _rows(path: Path, split: str, shown: str, where: Store) -> Stream:
    return drafts(elements(path), partial(_make, split + shown, shown, where))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    splits: dict[str, Rows] = {}
    for split in ("train", "val", "test"):
        file = f"avqa-{split}.json"
        if path := find(source, f"json_update/{file}", *places(file), f"json/{file}"):
            for shown in SENSES if split != "train" else ("",):
                splits[split + shown] = partial(_rows, path, split, shown, where)
    return nonempty(splits, source, "avqa-{train,val,test}.json")


RELEASE = Release(_splits, {f"{split}{s}": n for split, n in (("val", 4_595), ("test", 9_185)) for s in SENSES})
