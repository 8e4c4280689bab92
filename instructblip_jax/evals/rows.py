"""Predictions and references as files of anybody's: JSON lines, or the lists that the official programs read.

docs/metrics.md describes the rows. What is wrong is told with the file and the line (in a list: the row).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from instructblip_jax.evals.pairs import GROUPS, Pair, Prediction, Reference

IDS = ("uid", "question_id", "questionId", "id", "image_id", "image")
"""Names of what tells rows apart. Files are joined by the first that all rows of both have."""
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
        """What stands under the first of the names that is there and not null; else None."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def error(self, what: str) -> ValueError:
        """What is wrong with this row."""
        return ValueError(f"{self.place}: {what}")


def _no_nan(constant: str) -> float:
    if constant == "NaN":
        raise ValueError("NaN is no number")
    return float(constant)  # -Infinity is a log-likelihood


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_nan)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{place}: not valid JSON ({error.msg}, {where})") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def read_rows(path: str) -> list[Row]:
    """All rows of a file: JSON lines, a list of objects, or an object with such a list as ``annotations``.

    Raises FileNotFoundError, or ValueError with the line.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {content[: error.start].count(10) + 1}: not UTF-8") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no rows")
    listed = _listed(path, text, lines)
    if listed is None:
        found = [(f"{path}, line {number}", _parse(line, f"{path}, line {number}")) for number, line in lines]
    else:
        found = [(f"{path}, row {number}", row) for number, row in enumerate(listed, 1)]
    for place, fields in found:
        if not isinstance(fields, dict):
            raise ValueError(f"{place}: a {type(fields).__name__} where an object is expected")
    if not found:
        raise ValueError(f"{path}: holds no rows")
    return [Row(place, fields) for place, fields in found]


def _listed(path: str, text: str, lines: list[tuple[int, str]]) -> list[Any] | None:
    """The rows of a file that is one JSON value; None for JSON lines."""
    if lines[0][1].lstrip().startswith("["):
        content = _parse(text, path)
        if isinstance(content, list):
            return content
        raise ValueError(f"{path}: a {type(content).__name__} where a list is expected")
    try:
        first = json.loads(lines[0][1])
    except ValueError:  # an object that goes over several lines, or broken JSON lines
        try:
            first = json.loads(text)
        except ValueError:
            return None
    rows = first.get("annotations") if isinstance(first, dict) else None
    return rows if isinstance(rows, list) and (len(lines) == 1 or lines[0][1].strip() == "{") else None


def _as_text(row: Row, value: Any) -> str:
    """A string, or a number or truth value as JSON writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise row.error(f"a {type(value).__name__} where a text is expected")


def _texts(row: Row, values: Any) -> tuple[str, ...]:
    """Of one text, or a list of texts or of objects with ``answer`` or ``caption``."""
    values = values if isinstance(values, list) else [values]
    plain = [value.get("answer", value.get("caption")) if isinstance(value, dict) else value for value in values]
    return tuple(_as_text(row, value) for value in plain)


def _numbers(row: Row, values: Any) -> tuple[float, ...]:
    values = values if isinstance(values, list) else [values]
    if not all(isinstance(value, (int, float)) for value in values):
        raise row.error("a score is a number")
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
        groups={name: _as_text(row, row.fields[name]) for name in GROUPS if row.fields.get(name) is not None},
        difficult=bool(row.fields.get("difficult_direct_answer")),
    )


def _id_names(predictions: list[Row], references: list[Row]) -> tuple[str, str]:
    """Under which name the ids stand in either file."""

    def names(rows: list[Row]) -> list[str]:
        there = [name for name in IDS if all(row.fields.get(name) is not None for row in rows)]
        if not there:
            row = next((row for row in rows if row.first(IDS) is None), rows[0])
            raise row.error(f"no id; every row has it under the same name, {', '.join(IDS)}")
        return there

    of_predictions, of_references = names(predictions), names(references)
    shared = next((name for name in of_predictions if name in of_references), None)
    return shared or of_predictions[0], shared or of_references[0]


def _id(row: Row, name: str) -> str:
    value = row.fields[name]
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise row.error(f"{name} is a {type(value).__name__}, no id")
    return str(value)


def read_pairs(predictions: str, references: str) -> list[Pair]:
    """A pair for each reference, in their order; its prediction None where there is none.

    Raises FileNotFoundError, or ValueError naming the row: broken, without an id, an id twice (but for captions of a
    picture), or a prediction that nothing is known about.
    """
    said, known = read_rows(predictions), read_rows(references)
    said_name, known_name = _id_names(said, known)
    wanted: dict[str, Reference] = {}
    for row in known:
        uid = _id(row, known_name)
        reference, before = _reference(uid, row), wanted.get(uid)
        if before is not None:
            if row.first(LABELS) is not None or row.first(ANSWERS) is not row.first(CAPTIONS):
                raise row.error(f"{known_name} {uid!r} is there twice")
            reference = dataclasses.replace(before, answers=before.answers + reference.answers)
        wanted[uid] = reference
    given: dict[str, Prediction] = {}
    for row in said:
        uid = _id(row, said_name)
        if uid in given:
            raise row.error(f"{said_name} {uid!r} is there twice")
        if uid not in wanted:
            raise row.error(f"{said_name} {uid!r} has no reference in {references}")
        given[uid] = _prediction(row)
    return [(given.get(uid), reference) for uid, reference in wanted.items()]
