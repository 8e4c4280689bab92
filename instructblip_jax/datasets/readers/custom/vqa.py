"""VQA pairs: a file of questions and one of annotations, joined by question_id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.custom.json_rows import field, first, names, within
from instructblip_jax.datasets.readers.custom.row import Row, Rows
from instructblip_jax.datasets.readers.custom.splits import of_name

_SHAPES = ("COCO_{subtype}_{id:0>12}.jpg", "{id:0>12}.jpg", "{id}.jpg", "{id}.png")
"""What the picture of an image id may be called."""


def kind(path: Path) -> str | None:
    """ "questions" or "annotations", by what a JSON file has at its top."""
    try:
        top = next((key for key in names(path, None) if key in ("questions", "annotations", "images")), None)
        if top == "annotations":
            said = first(path, None, "annotations")
            return top if isinstance(said, dict) and "question_id" in said else None
    except ValueError:
        return None
    return top if top == "questions" else None


def partner(path: Path, own: str) -> Path | None:
    """The other file of a pair, beside it. Raises ValueError where several may be meant."""
    other = "annotations" if own == "questions" else "questions"
    there = [each for each in sorted(path.parent.glob("*.json")) if each != path and kind(each) == other]
    same = [each for each in there if of_name(each) == of_name(path)]
    named = [each for each in same if _bare(each) == _bare(path)] or same
    if len(named) > 1:
        raise ValueError(f"{path}: several {other} may be meant: {', '.join(each.name for each in named)}")
    return named[0] if named else None


def _bare(path: Path) -> str:
    """Its name without what tells the two apart, in VQA's own names, too."""
    name = path.stem.lower()
    for word in ("annotations", "questions", "openended_", "multiplechoice_"):
        name = name.replace(word, "")
    return name.strip("_-. ")


def rows(path: Path, encoding: str | None, roots: Sequence[Path]) -> Rows:
    """The questions of a pair, of which ``path`` is either."""
    own = kind(path)
    other = partner(path, own or "questions")
    questions, annotations = (other, path) if own == "annotations" else (path, other)
    if questions is None:
        raise FileNotFoundError(f"{path}: annotations, but there is no file of questions in {path.parent}")
    answers: dict[str, dict[str, Any]] = {}
    held = number = 0
    if annotations is not None:
        for held, said in enumerate(within(annotations, encoding, "annotations"), 1):
            where = f"{annotations}:{held}"
            name = forms.id_text(said.get("question_id")) if isinstance(said, dict) else None
            if name is None:
                yield Skip(where, "annotation without a question_id", str(said)[:60])
            elif name in answers:
                yield Skip(where, "a second annotation of a question", f"question_id {name[:60]}")
            else:
                answers[name] = said
    subtype = field(questions, encoding, "data_subtype")
    for number, asked in enumerate(within(questions, encoding, "questions"), 1):
        where = f"{questions}:{number}"
        if not isinstance(asked, dict):
            yield Skip(where, "no JSON object", str(asked)[:60])
            continue
        said = answers.pop(forms.id_text(asked.get("question_id")) or "", {})
        given = said.get("answers", said.get("answer", said.get("multiple_choice_answer")))
        image = asked.get("image", asked.get("file_name")) or _named(
            asked.get("image_id"), str(subtype or ""), (*roots, questions.parent)
        )
        fields = {
            "image": image,
            "instruction": asked.get("question"),
            "answer": given,
            "image_id": asked.get("image_id"),
            "question_id": asked.get("question_id"),
            "meta": {name: said[name] for name in ("question_type", "answer_type") if said.get(name)},
        }
        yield Row(where, number, fields, questions.parent, of_name(questions), rows=1 + bool(said))
    for left in answers:
        yield Skip(f"{annotations}:{left[:60]}", "no such question", "an annotation without one")
    return held + number


def _named(image: Any, subtype: str, roots: Sequence[Path]) -> str | None:
    """The name of an image id's picture: the first that is there, or the first of all."""
    if not isinstance(image, (int, str)) or len(str(image)) > 100 or {"/", "\\", "\0"} & set(str(image)):
        return None
    names = [shape.format(subtype=subtype, id=image) for shape in _SHAPES if subtype or "{subtype}" not in shape]
    spread = [*names, *(f"{subtype}/{name}" for name in names if subtype)]
    return next((name for name in spread if any((root / name).is_file() for root in roots)), names[0])
