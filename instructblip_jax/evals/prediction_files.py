"""Predictions and references as files of anybody's: JSON lines, or the lists that the official programs read.

docs/metrics.md describes the rows. What is wrong is told with the file and the line (in a list: the row).
"""

import dataclasses
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.fields import BadRow
from instructblip_jax.datasets.readers.json_text import Decoder
from instructblip_jax.evals.pairs import GROUPS, Pair, Prediction, Reference

IDS = ("uid", "question_id", "questionId", "id", "image_id", "image")
"""Names of what tells rows apart. Files are joined by the first that all rows of both have; captions, by pictures."""
PICTURE = "image_id"
TEXTS = ("prediction", "answer", "caption")
ANSWERS = ("answers", "references", "captions", "direct_answers", "answer", "caption")
CAPTIONS = ("references", "captions", "caption")
"""Of these, several rows may be about the same picture."""
CANDIDATES, LABELS = ("candidates", "choices"), ("label", "correct_choice_idx", "gt_index")
RELEVANCES = ("relevance", "gt_relevance")


@dataclasses.dataclass(frozen=True)
class Row:
    """One object of a file, and where it stands: "FILE, line 3"."""

    place: str
    fields: Mapping[str, Any]

    def first(self, names: Sequence[str]) -> Any:
        """The value under the first of the names that is present; else None."""
        return next((self.fields[name] for name in names if self.has(name)), None)

    def has(self, name: str) -> bool:
        """True if the field has a value: neither null nor NaN, which Python writes for a missing one."""
        return not forms.absent(self.fields.get(name))

    def error(self, what: str) -> ValueError:
        """What is wrong with this row."""
        return ValueError(f"{self.place}: {what}")


def _parse(text: str, place: str) -> Any:
    try:
        found = Decoder().only(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{place}: not valid JSON ({error.msg}, {where})") from error
    except RecursionError as error:
        raise ValueError(f"{place}: JSON nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if isinstance(found, BadRow):
        raise ValueError(f"{place}: {found.reason}: {found.detail}")
    return found


def read_rows(path: str) -> list[Row]:
    """All rows of a file: JSON lines, a list of objects, or an object with such a list as ``annotations``.

    Raises FileNotFoundError, or ValueError with the line.
    """
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {content[: error.start].count(10) + 1}: not UTF-8") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no rows")
    found = _document(path, text, lines)
    if found is None:
        found = [(f"{path}, line {number}", _parse(line, f"{path}, line {number}")) for number, line in lines]
    for place, fields in found:
        if not isinstance(fields, dict):
            raise ValueError(f"{place}: a {type(fields).__name__} where an object is expected")
    if not found:
        raise ValueError(f"{path}: holds no rows")
    return [Row(place, fields) for place, fields in found]


def _content(path: str) -> bytes:
    """All of a file. Raises FileNotFoundError, or ValueError for what is none: a device never ends."""
    file = epath.Path(path)
    if "://" in path:
        if not file.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    else:
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{path}: no such file") from None
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path}: not an ordinary file; copy its rows into one")
    return file.read_bytes()


def _document(path: str, text: str, lines: list[tuple[int, str]]) -> list[tuple[str, Any]] | None:
    """The rows of a file that is one JSON value, however it is laid out; None for JSON lines."""
    several = len(lines) > 1
    if not lines[0][1].lstrip().startswith("["):
        try:
            Decoder().only(lines[0][1])
            if several:
                return None
        except (ValueError, RecursionError):  # an object that goes over several lines, or broken JSON lines
            try:
                Decoder().only(text)
            except (ValueError, RecursionError):
                return None
    content = _parse(text, path if several else f"{path}, line {lines[0][0]}")
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    elif not isinstance(content, list):
        return [(f"{path}, line {lines[0][0]}", content)]
    return [(f"{path}, row {number}", row) for number, row in enumerate(content, 1)]


def _as_text(row: Row, value: Any) -> str:
    """A string, or a number or truth value as JSON writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise row.error(f"{value} where a text is expected")
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise row.error(f"a {type(value).__name__} where a text is expected")


def _texts(row: Row, values: Any) -> tuple[str, ...]:
    """One text, or all of a list or an object: see `forms.answers_of`."""
    return tuple(_as_text(row, value) for value in forms.answers_of(values))


def _numbers(row: Row, values: Any) -> tuple[float, ...]:
    values = values if isinstance(values, list) else [values]
    if not all(isinstance(value, (int, float)) for value in values):
        raise row.error("a score is a number")
    if any(map(forms.absent, values)):
        raise row.error("a score is NaN")
    return tuple(map(float, values))


def _prediction(row: Row) -> Prediction:
    text, scores = row.first(TEXTS), row.first(("scores", "score"))
    if text is None and scores is None:
        raise row.error(f"no prediction; it stands under {', '.join(TEXTS)}, scores or score")
    return Prediction(
        text=None if text is None else _as_text(row, text), scores=() if scores is None else _numbers(row, scores)
    )


def _reference(uid: str, row: Row) -> Reference:
    answers, candidates, label = row.first(ANSWERS), row.first(CANDIDATES), row.first(LABELS)
    label = forms.whole(label)
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    if label is not None and not isinstance(label, int):
        raise row.error(f"the label is a number, not {label!r}")
    relevance = row.first(RELEVANCES)
    return Reference(
        uid=uid,
        answers=() if answers is None else _texts(row, answers),
        candidates=() if candidates is None else _texts(row, candidates),
        label=None if label is None else int(label),
        relevance=() if relevance is None else _numbers(row, relevance),
        groups={name: _as_text(row, row.fields[name]) for name in GROUPS if row.has(name)},
        difficult=bool(row.fields.get("difficult_direct_answer")),
    )


def _id_names(predictions: list[Row], references: list[Row]) -> tuple[str, str]:
    """Under which name the ids stand in either file."""
    said, known = _names(predictions), _names(references)
    if PICTURE in known and all(row.first(ANSWERS) is row.first(CAPTIONS) is not None for row in references):
        # An id of its own numbers a caption, not what the caption is of.
        own = set(known) & set(said) & {"uid", "question_id", "questionId"}
        if PICTURE in said and not own:
            return PICTURE, PICTURE
        if not own and _id_of_pictures(predictions, said[0], references):
            return said[0], PICTURE
    shared = next((name for name in said if name in known), None)
    return shared or said[0], shared or known[0]


def _names(rows: list[Row]) -> list[str]:
    there = [name for name in IDS if all(row.has(name) for row in rows)]
    if not there:
        row = next((row for row in rows if row.first(IDS) is None), rows[0])
        raise row.error(f"no id; every row has it under the same name, {', '.join(IDS)}")
    return there


def _id_of_pictures(predictions: list[Row], name: str, references: list[Row]) -> bool:
    """True if predictions are joined by picture: several captions share an image id, or no other id fits."""
    pictures = [_id(row, PICTURE) for row in references]
    if len(set(pictures)) < len(pictures):
        return True
    said = {_id(row, name) for row in predictions}
    return said <= set(pictures) and not said <= {forms.id_text(row.fields.get(name)) for row in references}


def _id(row: Row, name: str) -> str:
    found = forms.id_text(row.fields[name])
    if found is None:
        raise row.error(f"{name} is a {type(row.fields[name]).__name__}, no id")
    return found


def _check_same(row: Row, other: Row, joined: str) -> None:
    """Raise ValueError for two rows that one id joins and another tells apart."""
    for name in IDS:
        if name == joined or (joined == PICTURE and name == "id") or not (row.has(name) and other.has(name)):
            continue
        one, two = (forms.id_text(each.fields[name]) for each in (row, other))
        if name == "image":  # a path, from wherever the file was
            one, two = (str(each).replace("\\", "/").rpartition("/")[2] for each in (one, two))
        if one != two:
            raise row.error(f"{name} is {one!r}, but {two!r} in {other.place}, which has the same {joined}")


def read_pairs(predictions: str, references: str) -> list[Pair]:
    """A pair for each reference, in their order; its prediction None where there is none.

    Raises FileNotFoundError, or ValueError naming the row: broken, without an id, an id twice (but for captions of a
    picture), a prediction that nothing is known about, or one whose other ids are those of another row.
    """
    said, known = read_rows(predictions), read_rows(references)
    said_name, known_name = _id_names(said, known)
    wanted: dict[str, Reference] = {}
    rows: dict[str, Row] = {}
    for row in known:
        uid = _id(row, known_name)
        reference, before = _reference(uid, row), wanted.get(uid)
        if before is not None:
            if row.first(LABELS) is not None or row.first(ANSWERS) is not row.first(CAPTIONS):
                raise row.error(f"{known_name} {uid!r} is there twice")
            reference = dataclasses.replace(before, answers=before.answers + reference.answers)
        wanted[uid] = reference
        rows.setdefault(uid, row)
    given: dict[str, Prediction] = {}
    for row in said:
        uid = _id(row, said_name)
        if uid in given:
            raise row.error(f"{said_name} {uid!r} is there twice")
        if uid not in wanted:
            raise row.error(f"{said_name} {uid!r} has no reference in {references}")
        _check_same(row, rows[uid], said_name)
        given[uid] = _prediction(row)
    return [(given.get(uid), reference) for uid, reference in wanted.items()]
