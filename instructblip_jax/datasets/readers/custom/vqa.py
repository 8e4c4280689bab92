"""Reads VQA pairs: a file of questions and a file of annotations, joined by question_id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.custom.json_rows import field, first, names, within
from instructblip_jax.datasets.readers.custom.own_row import OwnRow, OwnRows
from instructblip_jax.datasets.readers.custom.splits import of_name

_SHAPES = ("COCO_{subtype}_{id:0>12}.jpg", "{id:0>12}.jpg", "{id}.jpg", "{id}.png")
"""Possible file names for an image id."""


def kind(path: Path) -> str | None:
    """ "questions" or "annotations", by the top-level keys of a JSON file; None for any other file."""
    try:
        top = next((key for key in names(path, None) if key in ("questions", "annotations", "images")), None)
        if top == "annotations":
            entry = first(path, None, "annotations")
            return top if isinstance(entry, dict) and "question_id" in entry else None
    except ValueError:
        return None
    return top if top == "questions" else None


def partner(path: Path, own: str) -> Path | None:
    """The other file of the pair, in the same folder; None if there is none. Raises ValueError if several match."""
    other = "annotations" if own == "questions" else "questions"
    there = [each for each in sorted(path.parent.glob("*.json")) if each != path and kind(each) == other]
    same = [each for each in there if of_name(each) == of_name(path)]
    named = [each for each in same if _bare(each) == _bare(path)] or same
    if len(named) > 1:
        raise ValueError(f"{path}: several files of {other} match: {', '.join(each.name for each in named)}")
    return named[0] if named else None


def _bare(path: Path) -> str:
    """The file name without the words that distinguish the two files of a pair."""
    name = path.stem.lower()
    for word in ("annotations", "questions", "openended_", "multiplechoice_"):
        name = name.replace(word, "")
    return name.strip("_-. ")


def rows(path: Path, encoding: str | None, roots: Sequence[Path]) -> OwnRows:
    """The questions of a pair with their answers; ``path`` is either file."""
    own = kind(path)
    other = partner(path, own or "questions")
    questions, annotations = (other, path) if own == "annotations" else (path, other)
    if questions is None:
        raise FileNotFoundError(f"{path}: holds annotations, but {path.parent} has no file of questions")
    answers: dict[str, dict[str, Any]] = {}
    held = number = 0
    if annotations is not None:
        for held, entry in enumerate(within(annotations, encoding, "annotations"), 1):
            where = f"{annotations}:{held}"
            name = forms.id_text(entry.get("question_id")) if isinstance(entry, dict) else None
            if name is None:
                yield Skip(where, "annotation without a question_id", str(entry)[:60])
            elif name in answers:
                yield Skip(where, "a second annotation of a question", f"question_id {name[:60]}")
            else:
                answers[name] = entry
    subtype = field(questions, encoding, "data_subtype")
    for number, question in enumerate(within(questions, encoding, "questions"), 1):
        where = f"{questions}:{number}"
        if not isinstance(question, dict):
            yield Skip(where, "not a JSON object", str(question)[:60])
            continue
        annotation = answers.pop(forms.id_text(question.get("question_id")) or "", {})
        given = annotation.get("answers", annotation.get("answer", annotation.get("multiple_choice_answer")))
        image = question.get("image", question.get("file_name")) or _named(
            question.get("image_id"), str(subtype or ""), (*roots, questions.parent)
        )
        fields = {
            "image": image,
            "instruction": question.get("question"),
            "answer": given,
            "image_id": question.get("image_id"),
            "question_id": question.get("question_id"),
            "meta": {name: annotation[name] for name in ("question_type", "answer_type") if annotation.get(name)},
        }
        yield OwnRow(where, number, fields, questions.parent, of_name(questions), rows=1 + bool(annotation))
    for left in answers:
        yield Skip(f"{annotations}:{left[:60]}", "no such question", "an annotation without a question")
    return held + number


def _named(image: Any, subtype: str, roots: Sequence[Path]) -> str | None:
    """The file name for an image id: the first of the possible names that exists, else the first."""
    if not isinstance(image, (int, str)) or len(str(image)) > 100 or {"/", "\\", "\0"} & set(str(image)):
        return None
    names = [shape.format(subtype=subtype, id=image) for shape in _SHAPES if subtype or "{subtype}" not in shape]
    spread = [*names, *(f"{subtype}/{name}" for name in names if subtype)]
    return next((name for name in spread if any((root / name).is_file() for root in roots)), names[0])
