"""Reads predictions and references of any model: JSON lines, or the lists that the official programs read.

docs/metrics.md describes the rows. Errors name the file and the line (in a list: the row).
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
from instructblip_jax.datasets.readers.scienceqa_reasons import SUBJECTS, classes_of
from instructblip_jax.evals.pairs import GROUPS, Pair, Prediction, Reference

IDS = ("uid", "question_id", "questionId", "id", "image_id", "image")
"""Names of id fields. Two files are joined by the first that all rows of both have; captions are joined by picture."""
PICTURE = "image_id"
TEXTS = ("prediction", "answer", "caption")
ANSWERS = ("answers", "references", "captions", "direct_answers", "answer", "caption")
CAPTIONS = ("references", "captions", "caption")
"""Reference fields that several rows of the same image may have."""
CANDIDATES, LABEL_FIELDS = ("candidates", "choices"), ("label", "correct_choice_idx", "gt_index")
INDEX = "answer"
"""The field that is the label in rows with "choices" and no label, if it is a number (ScienceQA, IconQA)."""
RELEVANCES = ("relevance", "gt_relevance")


@dataclasses.dataclass(frozen=True)
class JsonRow:
    """One object of a file, with its place: "FILE, line 3"."""

    place: str
    fields: Mapping[str, Any]

    def first(self, names: Sequence[str]) -> Any:
        """The value of the first of ``names`` that is present; else None."""
        return next((self.fields[name] for name in names if self.has(name)), None)

    def has(self, name: str) -> bool:
        """True if the field has a value: neither null nor NaN, which Python writes for a missing one."""
        return not forms.absent(self.fields.get(name))

    def error(self, what: str) -> ValueError:
        """A ValueError that names this row's place."""
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


def read_rows(path: str) -> list[JsonRow]:
    """All rows of a file: JSON lines, a list of objects, or an object with such a list as ``annotations``.

    Raises FileNotFoundError, or ValueError naming the line.
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
    return [JsonRow(place, fields) for place, fields in found]


def _content(path: str) -> bytes:
    """The contents of a file. Raises FileNotFoundError, or ValueError if it is not a regular file: a device may never
    end."""
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
    """The rows of a file that is one JSON value, over any number of lines; None for JSON lines."""
    several = len(lines) > 1
    if not lines[0][1].lstrip().startswith("["):
        try:
            Decoder().only(lines[0][1])
            if several:
                return None
        except (ValueError, RecursionError):  # an object over several lines, or broken JSON lines
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


def _as_text(row: JsonRow, value: Any) -> str:
    """A string as it is; a number or boolean as JSON writes it. Raises ValueError for other types."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise row.error(f"{value} where a text is expected")
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise row.error(f"a {type(value).__name__} where a text is expected")


def _texts(row: JsonRow, values: Any) -> tuple[str, ...]:
    """One text, or those in a list or object: see `forms.answers_of`."""
    return tuple(_as_text(row, value) for value in forms.answers_of(values))


def _numbers(row: JsonRow, values: Any) -> tuple[float, ...]:
    values = values if isinstance(values, list) else [values]
    if not all(isinstance(value, (int, float)) for value in values):
        raise row.error("a score is a number")
    if any(map(forms.absent, values)):
        raise row.error("a score is NaN")
    return tuple(map(float, values))


def _prediction(row: JsonRow) -> Prediction:
    text, scores = row.first(TEXTS), row.first(("scores", "score"))
    if text is None and scores is None:
        raise row.error(f"no prediction; expected one of the fields {', '.join(TEXTS)}, scores or score")
    return Prediction(
        text=None if text is None else _as_text(row, text), scores=() if scores is None else _numbers(row, scores)
    )


def _reference(uid: str, row: JsonRow) -> Reference:
    answers, candidates, label = row.first(ANSWERS), row.first(CANDIDATES), row.first(LABEL_FIELDS)
    label = forms.whole(label)
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    if label is not None and not isinstance(label, int):
        raise row.error(f"the label is a number, not {label!r}")
    if label is None and row.has("choices") and type(row.fields.get(INDEX)) is int:  # no bool
        label = row.fields[INDEX]
    relevance = row.first(RELEVANCES)
    return Reference(
        uid=uid,
        answers=() if answers is None else _texts(row, answers),
        candidates=() if candidates is None else _texts(row, candidates),
        label=None if label is None else int(label),
        relevance=() if relevance is None else _numbers(row, relevance),
        groups=_groups(row),
        difficult=bool(row.fields.get("difficult_direct_answer")),
        group=str(row.fields.get("group", "")),
    )


def _groups(row: JsonRow) -> dict[str, str | Sequence[str]]:
    """The row's values of `GROUPS`. The classes of a row of ScienceQA's own problems.json are found here."""
    found: dict[str, str | Sequence[str]] = {}
    for name in GROUPS:
        if row.has(name):
            value = row.fields[name]
            found[name] = _texts(row, value) if isinstance(value, list) else _as_text(row, value)
    if "classes" not in found and str(row.fields.get("subject")) in SUBJECTS:
        hint, picture = (bool(row.first((name,))) for name in ("hint", "image"))
        found["classes"] = classes_of(row.fields["subject"], row.fields.get("grade"), hint=hint, picture=picture)
    return found


def _id_names(predictions: list[JsonRow], references: list[JsonRow]) -> tuple[str, str]:
    """The names of the id fields by which predictions and references are joined."""
    of_predictions, of_references = _names(predictions), _names(references)
    if PICTURE in of_references and all(row.first(ANSWERS) is row.first(CAPTIONS) is not None for row in references):
        # A caption's own "id" identifies the caption, not its picture.
        own = set(of_references) & set(of_predictions) & {"uid", "question_id", "questionId"}
        if PICTURE in of_predictions and not own:
            return PICTURE, PICTURE
        if not own and _id_of_pictures(predictions, of_predictions[0], references):
            return of_predictions[0], PICTURE
    shared = next((name for name in of_predictions if name in of_references), None)
    return shared or of_predictions[0], shared or of_references[0]


def _names(rows: list[JsonRow]) -> list[str]:
    there = [name for name in IDS if all(row.has(name) for row in rows)]
    if not there:
        row = next((row for row in rows if row.first(IDS) is None), rows[0])
        raise row.error(f"no id; every row must have the same one of {', '.join(IDS)}")
    return there


def _id_of_pictures(predictions: list[JsonRow], name: str, references: list[JsonRow]) -> bool:
    """True if predictions must be joined by picture: several captions share an image id, or no other id fits."""
    pictures = [_id(row, PICTURE) for row in references]
    if len(set(pictures)) < len(pictures):
        return True
    ids = {_id(row, name) for row in predictions}
    return ids <= set(pictures) and not ids <= {forms.id_text(row.fields.get(name)) for row in references}


def _id(row: JsonRow, name: str) -> str:
    found = forms.id_text(row.fields[name])
    if found is None:
        raise row.error(f"{name} is a {type(row.fields[name]).__name__}, not an id")
    return found


def _check_same(row: JsonRow, other: JsonRow, joined: str) -> None:
    """Raise ValueError if two rows with the same id ``joined`` differ in another id."""
    for name in IDS:
        if name == joined or (joined == PICTURE and name == "id") or not (row.has(name) and other.has(name)):
            continue
        one, two = (forms.id_text(each.fields[name]) for each in (row, other))
        if name == "image":  # a path, which may begin anywhere
            one, two = (str(each).replace("\\", "/").rpartition("/")[2] for each in (one, two))
        if one != two:
            raise row.error(f"{name} is {one!r}, but {two!r} in {other.place}, which has the same {joined}")


def read_pairs(predictions: str, references: str) -> list[Pair]:
    """One pair per reference, in their order; its prediction is None if there is none.

    Raises FileNotFoundError, or ValueError naming the row: broken rows, rows without an id, duplicate ids (except for
    captions of one picture), predictions without a reference, and joined rows whose other ids differ.
    """
    prediction_rows, reference_rows = read_rows(predictions), read_rows(references)
    prediction_id, reference_id = _id_names(prediction_rows, reference_rows)
    wanted: dict[str, Reference] = {}
    rows: dict[str, JsonRow] = {}
    for row in reference_rows:
        uid = _id(row, reference_id)
        reference, before = _reference(uid, row), wanted.get(uid)
        if before is not None:
            if row.first(LABEL_FIELDS) is not None or row.first(ANSWERS) is not row.first(CAPTIONS):
                raise row.error(f"{reference_id} {uid!r} occurs twice")
            reference = dataclasses.replace(before, answers=before.answers + reference.answers)
        wanted[uid] = reference
        rows.setdefault(uid, row)
    given: dict[str, Prediction] = {}
    for row in prediction_rows:
        uid = _id(row, prediction_id)
        if uid in given:
            raise row.error(f"{prediction_id} {uid!r} occurs twice")
        if uid not in wanted:
            raise row.error(f"{prediction_id} {uid!r} has no reference in {references}")
        _check_same(row, rows[uid], prediction_id)
        given[uid] = _prediction(row)
    return [(given.get(uid), reference) for uid, reference in wanted.items()]
