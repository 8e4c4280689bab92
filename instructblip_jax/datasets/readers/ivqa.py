"""Reads iVQA: {train,val,test}.csv with the columns video_id, start, end, question, answer1 ... answer5, in any order.

The user cuts the clips, so they have no official names: a file <video_id>_<start>_<end> or <video_id>, with one of
several extensions, is treated as the clip itself, and ``start`` and ``end`` are only stored in ``meta``.
Vocabulary: vocab.json, else the training answers that occur at least twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Release, Rows, Skip
from instructblip_jax.datasets.readers.delimited import Splitter
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, clean, full_text
from instructblip_jax.datasets.readers.json_files import Entry
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.text_files import lines
from instructblip_jax.datasets.readers.video_qa import common, numbered
from instructblip_jax.datasets.readers.videos import video

NAME = "ivqa"
ANSWERS = tuple(f"answer{number}" for number in range(1, 6))
FOLDERS = ("video", "videos", "clips", "")


def table(path: Path) -> Iterator[Entry]:
    """The rows of a CSV file with a header. Raises ValueError naming file and line if a required column is missing."""
    numbered = lines(path)
    _, first = next(numbered, (1, ""))
    header = [name.strip() for name in Splitter(",", 1).cells(first)]
    if missing := {"video_id", "question"} - set(header):
        raise ValueError(f"{path}:1: the header lacks {', '.join(sorted(missing))}")
    for number, cells, _ in Splitter(",", len(header)).rows((f"{line}\n" for _, line in numbered), 2):
        where = f"{path}:{number}"
        if isinstance(cells, BadRow):
            yield where, cells
        elif len(cells) != len(header):
            yield where, BadRow("broken line", f"{len(cells)} cells for {len(header)} columns")
        else:
            yield where, dict(zip(header, cells, strict=True))


def _seconds(row: SourceRow, name: str) -> str:
    """A time in seconds as file names spell it: "30" for 30 and 30.0."""
    return row.get(name, "").strip().removesuffix(".0")


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    clip, start, end = full_text(row, "video_id"), _seconds(row, "start"), _seconds(row, "end")
    given = [clean(row[name]) for name in ANSWERS if name in row]
    times = f"{clip}_{start}_{end}"
    uid = f"{NAME}/{split}/{times if start or end else clip}"
    meta = {name: float(time) for name, time in (("start", start), ("end", end)) if _is_time(time)}
    record = Record(
        uid=uid,
        dataset=NAME,
        split=split,
        task="vqa",
        media=(),
        slots={"question": full_text(row, "question")},
        image_id=clip,
        meta=meta,
        **answer_fields(given),
    )
    stems = [times, clip] if start or end else [clip]
    yield record, (video(where, stems, FOLDERS, f"{FOLDERS[0]}/{clip}.mp4"),)


def _is_time(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() and text.isascii()


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    return drafts(table(path), partial(_make, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    splits: dict[str, Rows] = {}
    for split in ("train", "val", "test"):
        if path := find(source, *places(f"{split}.csv")):
            splits[split] = partial(_rows, path, split, where)
    return nonempty(splits, source, "{train,val,test}.csv")


def _vocabulary(source: Path) -> Sequence[str]:
    folder = source.parent if source.is_file() else source
    if path := find(folder, *places("vocab.json")):
        return numbered(path)
    if not (path := find(folder, *places("train.csv"))):
        raise FileNotFoundError(f"{folder}: no vocab.json and no train.csv to take the answers from")
    rows = (row for _, row in table(path) if isinstance(row, dict))
    return common([clean(row[name]) for row in rows for name in ANSWERS if name in row], least=2)


RELEASE = Release(_splits, {"train": 5_994, "val": 2_000, "test": 2_000}, _vocabulary)
