"""Reads Visual Dialog v1.0: visdial_1.0_{train,val,test}.json and visdial_1.0_{val,train}_dense_annotations.json.

One record per round: a hundred candidates, with ``label`` the index of the correct one, and in the slot ``history`` the
caption and the earlier rounds (" q: ... a: ..." each). In the test split only the last, open round of a dialog is a
record. Images: COCO 2014 for train; VisualDialog_{val,test}2018/.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Media, Release, Rows, Skip, Stream
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, clean, ident, index, need, text, typed
from instructblip_jax.datasets.readers.json_files import elements, value
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, coco_picture, coco_store

NAME = "visdial"
Relevance = Mapping[tuple[str | None, int], tuple[float, ...]]


def _picture(where: Store, image_id: int | str, split: str) -> Path:
    if split == "train":
        return coco_picture(where, image_id, "train2014")
    number = typed(image_id, int, "image_id")
    file = f"VisualDialog_{split}2018_{number:012d}.jpg"
    return where.find(f"VisualDialog_{split}2018/{file}", f"images/{file}", file)


def _pool(path: Path, name: str) -> list[Any]:
    """The texts to which rounds refer by index. Raises ValueError naming the file."""
    found = value(path, "data", name)
    if not isinstance(found, list):
        raise ValueError(f"{path}: data.{name} is not a list")
    return found


def _spoken(pool: Sequence[Any], row: SourceRow, name: str) -> str:
    return clean(typed(pool[index(need(row, name), len(pool), name)], str, name))


def _dense(path: Path | None) -> tuple[dict[tuple[str | None, int], tuple[float, ...]], list[Skip]]:
    """(image id, round) -> relevance of each candidate; and the skips of unusable rows."""
    found, skips = {}, []
    for where, row in elements(path) if path else ():
        try:
            if isinstance(row, BadRow):
                raise row
            key = (
                forms.id_text(ident(typed(row, dict, "row"), "image_id")),
                typed(need(row, "round_id"), int, "round_id"),
            )
            name = "gt_relevance" if "gt_relevance" in row else "relevance"
            shares = typed(need(row, name), list, name)
            if not all(type(share) in (int, float) and math.isfinite(share) and 0 <= share <= 1 for share in shares):
                raise BadRow("wrong type", name)
            found[key] = tuple(map(float, shares))
        except BadRow as bad:
            skips.append(Skip(where, bad.reason, bad.detail))
    return found, skips


class _Dialogs:
    """Makes the records of one dialog per call."""

    def __init__(self, path: Path, split: str, where: Store, relevance: Relevance):
        self.split, self.where, self.relevance = split, where, relevance
        self.questions, self.answers = _pool(path, "questions"), _pool(path, "answers")

    def __call__(self, row: SourceRow) -> Iterator[Made]:
        image_id, history = ident(row, "image_id"), " ".join(text(row, "caption").split())
        rounds = typed(need(row, "dialog"), list, "dialog")
        if not rounds:
            raise BadRow("empty dialog")
        media = (Media(_picture(self.where, image_id, self.split)),)
        for number, turn in enumerate(rounds, 1):
            question = _spoken(self.questions, typed(turn, dict, f"round {number}"), "question")
            if self.split != "test" or number == len(rounds):
                try:
                    yield self._round(image_id, number, history, question, turn), media
                except BadRow as bad:
                    yield bad
            if number < len(rounds):
                history += f" q: {question} a: {_spoken(self.answers, turn, 'answer')}"

    def _round(self, image_id: int | str, number: int, history: str, question: str, turn: SourceRow) -> Record:
        listed = typed(need(turn, "answer_options"), list, "answer_options")
        candidates = tuple(_spoken(self.answers, {"option": option}, "option") for option in listed)
        fields: dict[str, Any] = {"answers": ()}
        if self.split != "test" or "gt_index" in turn:
            label = index(need(turn, "gt_index"), len(candidates), "gt_index")
            if "answer" in turn and _spoken(self.answers, turn, "answer") != candidates[label]:
                raise BadRow("answer differs from the candidate at gt_index")
            fields = {**answer_fields((candidates[label],)), "label": label}
        relevance = self.relevance.get((forms.id_text(image_id), number), ())
        if relevance and len(relevance) != len(candidates):
            raise BadRow("relevance and candidates differ in number")
        return Record(
            uid=f"{NAME}/{self.split}/{image_id}#{number}",
            dataset=NAME,
            split=self.split,
            task="rank",
            media=(),
            slots={"question": question, "history": history},
            candidates=candidates,
            relevance=relevance,
            image_id=image_id,
            meta={"round_id": number},
            **fields,
        )


def _rows(path: Path, dense: Path | None, split: str, where: Store) -> Stream:
    relevance, skips = _dense(dense)
    yield from skips
    return len(skips) + (yield from drafts(elements(path, "data", "dialogs"), _Dialogs(path, split, where, relevance)))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where, folder = coco_store(source, images), source.parent if source.is_file() else source
    splits: dict[str, Rows] = {}
    for split in ("train", "val", "test"):
        if path := find(source, *places(f"visdial_1.0_{split}.json")):
            dense = find(folder, *places(f"visdial_1.0_{split}_dense_annotations.json"))
            splits[split] = partial(_rows, path, dense, split, where)
    return nonempty(splits, source, "visdial_1.0_{train,val,test}.json")


RELEASE = Release(_splits, {"train": 1_232_870, "val": 20_640, "test": 8_000})
