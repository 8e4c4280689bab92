"""Reads ScienceQA: problems.json and pid_splits.json.

"train", "val" and "test" have all problems; "train_img", "val_img" and "test_img" those with an image. The slot
``context`` is the hint, which is often empty. Images: images/<split>/<pid>/.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import (
    BadRow,
    SourceRow,
    extras,
    full_text,
    ident,
    index,
    need,
    options,
    text,
    texts,
)
from instructblip_jax.datasets.readers.json_files import Entry, value
from instructblip_jax.datasets.readers.source_rows import Made, OtherSplit, drafts, find, nonempty
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "scienceqa"
TOLD = ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")


def problems(path: Path) -> dict[str, Any]:
    """The contents of problems.json. Raises ValueError naming the file."""
    found = value(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: the file is not a JSON object")
    return found


def members_of(path: Path, rows: Mapping[str, Any], split: str, ids: Any) -> Iterator[Entry]:
    """The problems ``ids`` (of pid_splits.json) as rows with their ``pid``. Raises ValueError unless ids is a list."""
    if not isinstance(ids, list):
        raise ValueError(f"{path.with_name('pid_splits.json')}: {split} is not a list of problem ids")
    for pid in ids:
        where = f"{path}:{pid}"
        if not isinstance(pid, (str, int)) or str(pid) not in rows:
            yield where, BadRow("no such problem", f"listed under {split} in pid_splits.json")
        else:
            row = rows[str(pid)]
            yield where, {**row, "pid": str(pid)} if isinstance(row, dict) else row


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    pictured = row.get("image") is not None
    part = split.removesuffix("_img")
    if split != part and not pictured:
        yield OtherSplit()
        return
    pid, choices = ident(row, "pid"), texts(row, "choices")
    label = index(need(row, "answer"), len(choices), "answer")
    if not choices[label]:
        raise BadRow("empty answer")
    media: tuple[Media, ...] = ()
    if pictured:
        file = f"{part}/{pid}/{full_text(row, 'image')}"
        media = (Media(where.find(f"images/{file}", file)),)
    record = Record(
        uid=f"{NAME}/{split}/{pid}",
        dataset=NAME,
        split=split,
        task="choice",
        media=(),
        slots={
            "question": full_text(row, "question"),
            "context": text(row, "hint") if row.get("hint") is not None else "",
            "options": options(choices),
        },
        answers=(choices[label],),
        references=(choices[label],),
        candidates=choices,
        label=label,
        image_id=pid if pictured else None,
        question_id=pid,
        meta=extras(row, *TOLD),
    )
    yield record, media


def _rows(path: Path, ids: Path | None, split: str, where: Store) -> Iterator[Draft | Skip]:
    rows, part = problems(path), split.removesuffix("_img")
    if ids:
        chosen = value(ids, part)
    else:
        chosen = [pid for pid, row in rows.items() if isinstance(row, dict) and row.get("split") == part]
    return drafts(members_of(path, rows, part, chosen), partial(_make, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    path = find(source, "problems.json", "data/scienceqa/problems.json", "data/problems.json")
    splits: dict[str, Rows] = {}
    if path:
        ids = path.with_name("pid_splits.json")
        for part in ("train", "val", "test"):
            for split in (part, f"{part}_img"):
                splits[split] = partial(_rows, path, ids if ids.is_file() else None, split, where)
    return nonempty(splits, source, "problems.json")


EXPECTED = {"train": 12_726, "train_img": 6_218, "val": 4_241, "val_img": 2_097, "test": 4_241, "test_img": 2_017}
RELEASE = Release(_splits, EXPECTED)
