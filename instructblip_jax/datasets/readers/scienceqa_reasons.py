"""ScienceQA with its lectures and explanations as chains of thought: the files of `scienceqa`, one set per form.

A form is named by its input and output, as in the release (arXiv 2209.09513, section 4): Question, Context
and Multiple options; Answer, Lecture and Explanation (the field "solution"). The splits are those of `scienceqa`.
"""

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Reading, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import BadRow, letter, text
from instructblip_jax.datasets.readers.scienceqa import RELEASE

BECAUSE = " BECAUSE:"
FORMS: Mapping[str, str] = {
    "scienceqa_qcm_a": "The answer is {answer}.",
    "scienceqa_qcm_ale": "The answer is {answer}." + BECAUSE + " {lecture} {explanation}",
    "scienceqa_qcm_lea": "{lecture} {explanation} The answer is {answer}.",
}
"""Set -> its target, without the word "Answer:" that the release puts before it and `datasets.prompts` ends with."""

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
GRADES = {f"grade{number}": "G1-6" if number <= 6 else "G7-12" for number in range(1, 13)}
CLASSES = (*SUBJECTS.values(), "TXT", "IMG", "NO", *dict.fromkeys(GRADES.values()))
"""The columns of the release's table of results before its average, in order."""


def classes_of(subject: Any, grade: Any, *, hint: bool, picture: bool) -> tuple[str, ...]:
    """The `CLASSES` of a problem: one each by ``subject`` and ``grade``, and by its context TXT (it has a hint), IMG
    (it has an image), both of these, or NO."""
    context = [name for name, there in (("TXT", hint), ("IMG", picture)) if there] or ["NO"]
    return tuple(name for name in (SUBJECTS.get(str(subject)), *context, GRADES.get(str(grade))) if name)


def _collapsed(words: str) -> str:
    """Double blanks become single ones, once from left to right, as in the release; leading and trailing blanks are
    removed."""
    return words.replace("  ", " ").strip()


def _told(meta: Mapping[str, Any], name: str) -> str:
    """A lecture or an explanation on one line: its line ends become a backslash and an n. "" if there is none."""
    return text(meta, name).replace("\n", "\\n") if name in meta else ""


def _reasoned(name: str, old: Record) -> Record:
    assert old.label is not None  # every problem has one
    letters = [letter(number).upper() for number in range(len(old.candidates))]
    told = {"lecture": _told(old.meta, "lecture"), "explanation": _told(old.meta, "solution")}
    target = _collapsed(FORMS[name].format(answer=letters[old.label], **told)).removesuffix(BECAUSE)
    listed = " ".join(f"({mark}) {choice}" for mark, choice in zip(letters, old.candidates, strict=True))
    hint, pictured = old.slots["context"], old.image_id is not None
    classes = classes_of(old.meta.get("subject"), old.meta.get("grade"), hint=bool(hint), picture=pictured)
    return Record(
        uid=name + old.uid.removeprefix(old.dataset),
        dataset=name,
        split=old.split,
        task=old.task,
        media=(),
        slots={
            "question": _collapsed(old.slots["question"]),
            "context": _collapsed(hint) or "N/A",
            "options": _collapsed(listed),
        },
        answers=(target,),
        candidates=tuple(FORMS["scienceqa_qcm_a"].format(answer=mark) for mark in letters),
        label=old.label,
        image_id=old.image_id,
        question_id=old.question_id,
        meta={**old.meta, "classes": list(classes)},
    )


def _drafts(name: str, rows: Rows) -> Generator[Draft | Skip, None, int | None]:
    reading = Reading(rows())
    for draft in reading:
        if isinstance(draft, Skip):
            yield draft
            continue
        try:
            yield Draft(draft.where, _reasoned(name, draft.record), draft.media, draft.rows)
        except BadRow as bad:
            yield Skip(draft.where, bad.reason, bad.detail, draft.rows)
    return reading.held


def _splits(name: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    return {split: partial(_drafts, name, rows) for split, rows in RELEASE.splits(source, images).items()}


RELEASES = {name: Release(partial(_splits, name), RELEASE.expected) for name in FORMS}
