"""Converts a row of the user's files to the draft of a record, and checks it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import AUDIO, DOCUMENT, IMAGE, POINTS, Record
from instructblip_jax.datasets.draft import VIDEO, Draft, Media
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.custom import pictures, splits
from instructblip_jax.datasets.readers.custom.own_row import OwnRow
from instructblip_jax.datasets.readers.custom.text import text_of, without_markers
from instructblip_jax.datasets.readers.fields import MISMATCH, BadRow, clean

TRUTH = {"no": 0, "false": 0, "0": 0, "yes": 1, "true": 1, "1": 1}
"""Answer of a binary task, in lower case -> label."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A row with its media, and the split named by the row or its file; None: the split is drawn."""

    row: OwnRow
    media: tuple[Media, ...]
    split: str | None

    def keys(self) -> list[str]:
        """The keys by which the split is drawn: one per medium, or the row's location if it has none."""
        return [splits.key(each) for each in self.media] or [f"{self.row.where.rpartition(':')[0]}#{self.row.number}"]


def place(row: OwnRow, roots: Sequence[Path]) -> Placed:
    """Find a row's media, images first, and its split. Raises BadRow."""
    named = text_of(row.fields.get("split"), "split")
    split = splits.of_field(named) if named else row.split
    kinds = {"image": VIDEO if row.fields.get("video") else IMAGE, "audio": AUDIO, "pc": POINTS}
    found = {column: pictures.media(row.fields.get(column), row.folder, roots, kind) for column, kind in kinds.items()}
    media = (row.media or found["image"]) + found["audio"] + found["pc"]
    if not media and not row.turns and not row.parts:
        raise BadRow("no picture, recording or point cloud")
    marks = sum(isinstance(part, int) for part in row.parts)
    if row.parts and marks != len(media):
        raise BadRow(MISMATCH, f"{marks} marks, {len(media)} pictures")
    return Placed(row, media, split)


def draft(placed: Placed, name: str, split: str) -> Draft:
    """The draft of a row. Raises BadRow if it cannot be trained on (split "train") or evaluated (other splits)."""
    row, fields = placed.row, placed.row.fields
    instruction = text_of(fields.get("instruction"), "instruction")
    task = text_of(fields.get("task"), "task")
    if instruction is not None:
        instruction = without_markers(instruction)
        if not instruction and task != "caption":
            raise BadRow("blank instruction", "only captions may have none; leave the column out")
    choices = _texts(fields.get("candidates"), "candidates")
    answers, weights, references = _answers(fields, split == "train" and not row.turns and not row.parts)
    if choices and any(answer not in choices for answer in answers):
        unknown = next(answer for answer in answers if answer not in choices)
        raise BadRow("answer not among the candidates", f"{unknown[:60]!r}")
    task = task or _task(row, instruction, choices)
    label = choices.index(answers[0]) if choices and answers else None
    if task == "binary" and not choices and answers:
        label = TRUTH.get(answers[0].lower())
    slots, instruction = _slots(fields, instruction)
    own = _id(fields.get("id"))
    question_id = _id(fields.get("question_id"))
    number = next(each for each in (own, question_id, row.number) if each is not None)
    record = Record(
        uid=f"{name}/{split}/{number}",
        dataset=name,
        split=split,
        task=task,
        media=(),
        slots=slots,
        answers=answers,
        weights=weights,
        references=references,
        instruction=instruction,
        candidates=choices,
        label=label,
        turns=row.turns,
        image_id=_id(fields.get("image_id")),
        question_id=question_id,
        meta=_meta(fields.get("meta", {})),
        parts=row.parts,
    )
    return Draft(row.where, record, placed.media, row.rows, row.notes)


def _task(row: OwnRow, instruction: str | None, choices: Sequence[str]) -> str:
    if row.parts:
        return DOCUMENT
    if row.turns:
        return "dialog"
    if choices:
        return "choice"
    return "vqa" if instruction else "caption"


def _slots(fields: Mapping[str, Any], instruction: str | None) -> tuple[dict[str, str], str | None]:
    """The slots, and the instruction preceded by the row's context."""
    context = text_of(fields.get("context"), "context")
    slots = {"question": instruction} if instruction else {}
    if context:
        slots["context"] = context
        instruction = f"{context}\n{instruction}" if instruction else None
    return slots, instruction or None


def _texts(value: Any, what: str) -> tuple[str, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(text for item in items if (text := text_of(item, what)))


def _answers(fields: Mapping[str, Any], needed: bool) -> tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...]]:
    """Distinct answers by descending weight; their weights, () if equal; all answers as given, () if there is one."""
    given = [text_of(item, "answer") or "" for item in forms.answers_of(fields.get("answer"))]
    shares = _weights(fields.get("weights"), len(given))
    total: dict[str, float] = {}
    for answer, share in zip(given, shares or [1.0] * len(given), strict=True):
        if answer:
            total[answer] = total.get(answer, 0.0) + share
    whole = sum(total.values())
    if total and not whole:
        raise BadRow("invalid weights", "all are 0")
    if not total:
        if needed:
            raise BadRow("empty answer")
        return (), (), ()
    order = sorted(total, key=lambda answer: -total[answer])
    alike = not shares and len(total) == sum(map(bool, given))
    weights = () if alike else tuple(total[answer] / whole for answer in order)
    return tuple(order), weights, tuple(given) if len(given) > 1 else ()


def _weights(value: Any, count: int) -> list[float]:
    if value in (None, "", [], ()):
        return []
    items = value if isinstance(value, (list, tuple)) else [value]
    if len(items) != count:
        raise BadRow("weights and answers differ in number", f"{len(items)} weights, {count} answers")
    try:
        shares = [float(item) for item in items]
    except (TypeError, ValueError, OverflowError):
        raise BadRow("invalid weights", str(items)[:60]) from None
    if not all(math.isfinite(share) and share >= 0 for share in shares):
        raise BadRow("invalid weights", str(items)[:60])
    return shares


def _id(value: Any) -> int | str | None:
    """An id as in the file: an int, or text; booleans and fractional numbers as in JSON."""
    value = forms.whole(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return text_of(value, "id") or None


def _meta(value: Any) -> Any:
    """A value for `Record.meta`: texts cleaned, types that JSON lacks as text, NaN and infinity dropped."""
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        kept = {clean(str(name)): _meta(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item is not None or value.get(name) is None}
    if isinstance(value, (list, tuple)):
        return [_meta(item) for item in value]
    return f"{len(value)} bytes" if isinstance(value, bytes) else clean(str(value))
