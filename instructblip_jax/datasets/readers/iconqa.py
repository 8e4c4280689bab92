"""Reads IconQA: problems.json and pid_splits.json, else the data.json in each problem's folder, else LAVIS's
annotations_{train,val,test}.json (choose_txt only). Splits are named "<task>/<part>", such as "choose_txt/test".

choose_txt: the choices are texts. choose_img: the choices are images, which follow the question's own image, and
the candidates are their letters. fill_in_blank: a short answer.
Images: iconqa/<part>/<task>/<pid>/image.png and choice_0.png ...
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
    answer_text,
    extras,
    full_text,
    ident,
    index,
    letter,
    need,
    options,
    texts,
)
from instructblip_jax.datasets.readers.json_files import Entry, elements, value
from instructblip_jax.datasets.readers.scienceqa import members_of, problems
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "iconqa"
TASKS = ("choose_img", "choose_txt", "fill_in_blank")
PARTS = ("train", "val", "test")


def _make(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    task, part = split.split("/")
    pid = ident(row, "pid")
    folder = f"{part}/{task}/{pid}"

    def media(file: str) -> Media:
        at = f"{folder}/{file}"
        flat = (f"{part}/{row['image']}", row["image"]) if isinstance(row.get("image"), str) else ()
        return Media(where.find(f"iconqa/{at}", at, f"iconqa_data/iconqa/{at}", *flat))

    pictures = [media("image.png")]
    slots, fields = {"question": full_text(row, "question")}, dict[str, Any]()
    if task == "fill_in_blank":
        fields = answer_fields((answer_text(need(row, "answer")),))
    else:
        choices = texts(row, "choices")
        label = index(need(row, "answer"), len(choices), "answer")
        if task == "choose_img":
            pictures += map(media, choices)
            slots["options"] = options([f"picture {number}" for number in range(2, len(choices) + 2)])
            choices = tuple(map(letter, range(len(choices))))
        else:
            slots["options"] = options(choices)
        fields = {**answer_fields((choices[label],)), "candidates": choices, "label": label}
    record = Record(
        uid=f"{NAME}/{split}/{pid}",
        dataset=NAME,
        split=split,
        task="vqa" if task == "fill_in_blank" else "choice",
        media=(),
        slots=slots,
        image_id=pid,
        question_id=pid,
        meta=extras(row, "grade", "label", "skills"),
        **fields,
    )
    yield record, tuple(pictures)


def _official(path: Path, ids: Path | None, split: str, where: Store) -> Iterator[Draft | Skip]:
    rows, (task, part) = problems(path), split.split("/")
    if ids:
        chosen = value(ids, f"{task}_{part}")
    else:
        named = {pid: row for pid, row in rows.items() if isinstance(row, dict)}
        chosen = [pid for pid, row in named.items() if (row.get("ques_type"), row.get("split")) == (task, part)]
    return drafts(members_of(path, rows, split, chosen), partial(_make, where, split))


def _folders(folder: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    def entries() -> Iterator[Entry]:
        for path in sorted(folder.glob("*/data.json"), key=lambda path: (len(path.parent.name), path.parent.name)):
            try:
                row = value(path)
            except ValueError as error:
                row = BadRow("broken file", str(error))
            yield f"{path}:1", {**row, "pid": path.parent.name} if isinstance(row, dict) else row

    return drafts(entries(), partial(_make, where, split))


def _listed(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    def entries() -> Iterator[Entry]:
        for place, row in elements(path):
            image = row.get("image") if isinstance(row, dict) else None
            stem = Path(image).stem if isinstance(image, str) else ""
            yield place, {**row, "pid": stem.rsplit("_", 1)[-1]} if stem else row

    return drafts(entries(), partial(_make, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "iconqa_data", "images", "..")
    splits: dict[str, Rows] = {}
    path = find(source, "problems.json", "iconqa_data/problems.json")
    for task in TASKS:
        for part in PARTS:
            split = f"{task}/{part}"
            if path:
                ids = path.with_name("pid_splits.json")
                splits[split] = partial(_official, path, ids if ids.is_file() else None, split, where)
                continue
            inner = (source / name / part / task for name in ("iconqa", "iconqa_data/iconqa", ""))
            if folder := next((found for found in inner if found.is_dir()), None):
                splits[split] = partial(_folders, folder, split, where)
            elif task == "choose_txt" and (copy := find(source, *places(f"annotations_{part}.json"))):
                splits[split] = partial(_listed, copy, split, where)
    wanted = ("problems.json", "iconqa/<part>/<task>/<pid>/data.json", "annotations_{train,val,test}.json")
    return nonempty(splits, source, *wanted)


SIZES = {
    "choose_img": (34_603, 11_535, 11_535),
    "choose_txt": (18_946, 6_316, 6_316),
    "fill_in_blank": (10_913, 3_638, 3_638),
}
RELEASE = Release(
    _splits, {f"{task}/{part}": size for task, sizes in SIZES.items() for part, size in zip(PARTS, sizes, strict=True)}
)
