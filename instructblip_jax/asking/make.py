"""Files of questions generated from a set's captions, batch by batch: each batch is saved, so that a killed command
continues where it stopped.

`audiocaps_qa` and `cap3d_qa` become tables of all questions with the results of both checks; `discrn_av` and
`discrn_i3d` become lists of the pairs whose answer was found again. The formats are those of the readers.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from instructblip_jax.asking import about_one, about_two
from instructblip_jax.asking.writer import Write
from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Rows

BATCH = 256
"""Number of captions or pairs after which results are saved."""
Fields = dict[str, str]


class Told(NamedTuple):
    """A caption, and the fields with which a reader finds its medium."""

    fields: Fields
    caption: str


def _of_a_clip(record: Record) -> Fields:
    return {"youtube_id": str(record.meta["youtube_id"]), "start_time": f"{record.meta['start']:g}"}


def _of_an_object(record: Record) -> Fields:
    return {"sample_id": str(record.image_id)}


class Made(NamedTuple):
    """A set generated from another set's captions.

    Attributes:
      captions: the set with the captions.
      fields: of a record.
      shapes: the captions are of 3D models.
      file: the result's name; "{}" is the split; for pairs there is only "val".
      candidates, most: for pairs: number of others compared with a caption, and of pairs in total; 0 means questions
        about one caption.
    """

    captions: str
    fields: Callable[[Record], Fields]
    shapes: bool
    file: str
    candidates: int = 0
    most: int = 0


MADE = {
    "audiocaps_qa": Made("audiocaps", _of_a_clip, False, "audiocaps_qa_{}.csv"),
    "cap3d_qa": Made("cap3d", _of_an_object, True, "cap3d_qa_{}.csv"),
    "discrn_av": Made("audiocaps", _of_a_clip, False, "audiocaps.json", 500, 10_000),
    "discrn_i3d": Made("cap3d", _of_an_object, True, "objaverse.json", 100, 100_000),
}
"""Set -> its generation."""


def make(name: str, splits: Mapping[str, Rows], write: Write, model: str, out: Path) -> dict[str, dict[str, int]]:
    """Generate the set ``name`` from the ``splits`` of its captions; file -> counts. ``model``: name of the model.

    Raises ValueError if the files of an unfinished attempt have other captions or another model.
    """
    how, report = MADE[name], {}
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        if split == "test" or (how.most and split != "val"):
            continue
        told = list(_told(rows, how))
        path = out / how.file.format(split)
        report[path.name] = _pairs(how, told, write, model, path) if how.most else _about(how, told, write, model, path)
    if not report:
        raise ValueError(f"{name}: the captions are those of {how.captions}'s split val, which is not there")
    return report


def _told(rows: Rows, how: Made) -> Iterator[Told]:
    for row in rows():
        if isinstance(row, Draft):
            answers = row.record.answers[:1] if how.most else row.record.answers
            yield from (Told(how.fields(row.record), caption) for caption in answers)


def _about(how: Made, told: Sequence[Told], write: Write, model: str, path: Path) -> dict[str, int]:
    def some(start: int, end: int) -> list[dict[str, Any]]:
        return about_one.rows(write, [one.caption for one in told[start:end]], shapes=how.shapes)

    made = _kept(path, model, [one.caption for one in told], len(told), some)
    rows = [{**one.fields, "caption": one.caption, **row} for one, row in zip(told, made, strict=True) if row]
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else ["caption", "question", "answer"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    _whole(path, text.getvalue())
    return about_one.counted(made)


def _pairs(how: Made, told: Sequence[Told], write: Write, model: str, path: Path) -> dict[str, int]:
    captions = [about_two.plain(one.caption) if how.shapes else one.caption for one in told]
    drawn: dict[tuple[int, int], None] = {}
    for seed in range(-(-how.most // max(1, len(captions)))):
        drawn |= dict.fromkeys(about_two.partners(captions, how.candidates, seed))
    pairs = list(drawn)[: how.most]

    def known(start: int, end: int) -> list[dict[str, Any]]:
        return [{"properties": text} for text in about_two.properties(write, captions[start:end])]

    own = [
        row["properties"]
        for row in _kept(path.with_name(f"{path.stem}.properties"), model, captions, len(captions), known)
    ]

    def some(start: int, end: int) -> list[dict[str, Any]]:
        return about_two.rows(write, [((captions[a], captions[b]), (own[a], own[b])) for a, b in pairs[start:end]])

    made = _kept(path, model, captions, len(pairs), some)
    rows = []
    for (a, b), row in zip(pairs, made, strict=True):
        if row.get("correct"):
            fields = [told[n].fields for n in (a, b)]
            rows.append(
                {
                    "sample_ids": [one.get("youtube_id", one.get("sample_id")) for one in fields],
                    **({"start_seconds": [float(one["start_time"]) for one in fields]} if not how.shapes else {}),
                    "question": row["question"],
                    "label": row["label"],
                    "properties": [own[a], own[b]],
                    "captions": [captions[a], captions[b]],
                }
            )
    _whole(path, json.dumps(rows, ensure_ascii=False))
    return {"captions": len(told), "pairs": len(pairs), "questions": sum(map(bool, made)), "kept": len(rows)}


def _kept(
    path: Path, model: str, captions: Sequence[str], count: int, some: Callable[[int, int], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """``count`` rows; ``some`` generates those in a range. They are saved in a JSON lines file next to ``path``, whose
    first line describes their source. An incomplete last line is generated again."""
    kept = path.with_name(f"{path.name}.made.jsonl")
    digest = hashlib.blake2b("\n".join(captions).encode("utf-8", "replace"), digest_size=16).hexdigest()
    head = {"model": model, "captions": digest, "rows": count}
    lines = kept.read_bytes().splitlines(keepends=True) if kept.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
    if whole and whole[0] != head:
        raise ValueError(f"{kept}: was made by {whole[0].get('model')} from other captions; remove it to start again")
    with kept.open("wb") as file:  # without the incomplete line
        file.write(b"".join(json.dumps(row).encode() + b"\n" for row in (whole or [head])))
    made = whole[1:]
    while len(made) < count:
        new = some(len(made), min(len(made) + BATCH, count))
        with kept.open("ab") as file:
            file.write(b"".join(json.dumps(row).encode() + b"\n" for row in new))
        made += new
    return made


def _whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
