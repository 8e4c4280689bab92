"""Reads MSVD-QA and MSRVTT-QA: {train,val,test}_qa.json, lists of {id, video_id, question, answer}.

A split without this file is read from LAVIS's qa_{train,val,test}.json, lists of {video, question, answer,
question_id}. Videos: MSVD's YouTubeClips/<clip>.avi, where youtube_mapping.txt maps each "vid<N>" to its clip, or
vid<N>.avi; MSRVTT's TrainValVideo/ and TestVideo/video<N>.mp4. Evaluation of both ranks a vocabulary: LAVIS's
train_ans2label.json if there is one, else the answers of the training split, at most the 4,000 most common.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import (
    BadRow,
    SourceRow,
    answer_text,
    distinct,
    extras,
    full_text,
    ident,
    need,
    typed,
)
from instructblip_jax.datasets.readers.json_files import elements, value
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.text_files import lines
from instructblip_jax.datasets.readers.videos import video

MOST = 4_000
Find = Callable[[SourceRow, str], tuple[int | str, Media]]
"""(row, split) -> the video's id and the video."""


def _make(name: str, split: str, place: Find, row: SourceRow) -> Iterator[Made]:
    image_id, media = place(row, split)
    question_id = ident(row, "id" if "id" in row else "question_id")
    record = Record(
        uid=f"{name}/{split}/{question_id}",
        dataset=name,
        split=split,
        task="vqa",
        media=(),
        slots={"question": full_text(row, "question")},
        image_id=image_id,
        question_id=question_id,
        meta=extras(row, "category_id"),
        **answer_fields((answer_text(need(row, "answer")),)),
    )
    yield record, (media,)


def _rows(path: Path, name: str, split: str, place: Callable[[], Find]) -> Iterator[Draft | Skip]:
    return drafts(elements(path), partial(_make, name, split, place()))


def _listed(where: Store, row: SourceRow, folders: Sequence[str]) -> tuple[str, Media]:
    """Id and video of a row in LAVIS's form."""
    file = full_text(row, "video")
    stem = file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return stem, video(where, [stem], folders, f"{folders[0]}/{file}")


@lru_cache(maxsize=4)
def clips(path: Path) -> Mapping[str, str]:
    """youtube_mapping.txt as "vid<N>" -> clip; the two may be in either order. Raises ValueError naming the line."""
    found = {}
    for number, line in lines(path):
        words = line.split()
        names = [word for word in words if re.fullmatch(r"vid\d+", word)]
        others = [word for word in words if word not in names]
        if words and (len(names) != 1 or len(others) != 1):
            raise ValueError(f"{path}:{number}: not a clip and its vid<N>: {line[:80]!r}")
        if words:
            found[names[0]] = others[0]
    return found


MSVD_FOLDERS = ("YouTubeClips", "videos", "videos/all", "")
MSRVTT_FOLDERS = ("videos", "videos/all", "MSRVTT_Videos", "MSRVTT/videos/all", "")


def _msvd(where: Store, mapping: Path | None) -> Find:
    named = clips(mapping) if mapping else {}

    def place(row: SourceRow, split: str) -> tuple[int | str, Media]:
        if "video" in row and "video_id" not in row:
            return _listed(where, row, MSVD_FOLDERS)
        number = typed(need(row, "video_id"), int, "video_id")
        own = f"vid{number}"
        clip = named.get(own, own)
        return number, video(where, list(dict.fromkeys((clip, own))), MSVD_FOLDERS, f"YouTubeClips/{clip}.avi")

    return place


def _msrvtt(where: Store) -> Find:
    def place(row: SourceRow, split: str) -> tuple[int | str, Media]:
        own, other = ("TestVideo", "TrainValVideo") if split == "test" else ("TrainValVideo", "TestVideo")
        folders = (own, other, *MSRVTT_FOLDERS)
        if "video" in row and "video_id" not in row:
            return _listed(where, row, folders)
        number = typed(need(row, "video_id"), int, "video_id")
        return number, video(where, [f"video{number}"], folders, f"{own}/video{number}.mp4")

    return place


def _files(source: Path) -> dict[str, Path]:
    names = {split: (f"{split}_qa.json", *places(f"qa_{split}.json")) for split in ("train", "val", "test")}
    return {split: path for split, files in names.items() if (path := find(source, *files))}


def _splits(name: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    folder = source.parent if source.is_file() else source
    if name == "msvd_qa":
        place: Callable[[], Find] = partial(_msvd, where, find(folder, *places("youtube_mapping.txt")))
    else:
        place = partial(_msrvtt, where)
    splits: dict[str, Rows] = {
        split: partial(_rows, path, name, split, place) for split, path in _files(source).items()
    }
    return nonempty(splits, source, "{train,val,test}_qa.json", "qa_{train,val,test}.json")


def numbered(path: Path) -> list[str]:
    """The answers in a JSON object of answer -> index, ordered by index. Raises ValueError naming the file."""
    found = value(path)
    if not isinstance(found, dict) or not all(type(number) is int for number in found.values()):
        raise ValueError(f"{path}: is not an object of answer -> index")
    try:
        return list(distinct(answer_text(answer) for answer in sorted(found, key=found.__getitem__)))
    except BadRow as bad:
        raise ValueError(f"{path}: {bad.reason}: {bad.detail}") from bad


def common(answers: Sequence[str], least: int = 1) -> list[str]:
    """At most `MOST` answers that occur at least ``least`` times, most common first (ties: first seen first)."""
    counts = Counter(filter(None, answers)).most_common(MOST)
    return [answer for answer, count in counts if count >= least]


def _vocabulary(source: Path) -> Sequence[str]:
    folder = source.parent if source.is_file() else source
    if path := find(folder, *places("train_ans2label.json")):
        return numbered(path)
    if not (path := _files(folder).get("train")):
        raise FileNotFoundError(f"{folder}: no train_ans2label.json and no train_qa.json to take the answers from")
    answers = []
    for _, row in elements(path):
        try:
            answers.append(answer_text(need(typed(row, dict, "row"), "answer")))
        except BadRow:
            continue  # `_rows` reports it
    return common(answers)


MSVD = Release(partial(_splits, "msvd_qa"), {"train": 30_933, "val": 6_415, "test": 13_157}, _vocabulary)
MSRVTT = Release(partial(_splits, "msrvtt_qa"), {"train": 158_581, "val": 12_278, "test": 72_821}, _vocabulary)
