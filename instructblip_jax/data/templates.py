"""Instruction templates: `str.format` texts over a record's slots."""

import dataclasses
import string
from collections.abc import Mapping, Sequence

from instructblip_jax.data.record import DOCUMENT, Record

Templates = Mapping[str, Sequence[str]]
"""Set name -> its templates; "task:TASK" -> those for sets without templates."""


FRONT = "front"
"""A slot available for every answer: its words before a random one. The response is then the rest."""


def fields(template: str) -> set[str]:
    """The slot names in a template. Raises ValueError for broken braces."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def check(templates: Templates, example: Record) -> None:
    """Check the templates of one set against one of its records.

    Raises ValueError naming the set, the template, the field, and the available slots.
    """
    name = example.dataset
    if example.instruction is not None or example.task == DOCUMENT:
        return
    example = at_turn(example, 0) if example.turns else example
    for template in _own(templates, example):
        try:
            unknown = fields(template) - {*example.slots, FRONT}
            if not unknown:
                template.format(
                    **{FRONT: "", **example.slots}
                )  # raises for a format or conversion that texts do not have
        except (ValueError, KeyError) as error:
            raise ValueError(f"set {name!r}: template {template!r} is malformed ({error})") from error
        if unknown:
            slots = ", ".join(example.slots) or "none"
            raise ValueError(
                f"set {name!r}: template {template!r} has the field {', '.join(sorted(unknown))}; slots: {slots}"
            )


def history(turns: Sequence[tuple[str, str]]) -> str:
    """The earlier turns of a dialogue as text; "" for the first turn."""
    return "".join(f"Question: {question} Answer: {answer}\n" for question, answer in turns)


def at_turn(record: Record, turn: int) -> Record:
    """The record for one turn: with the slots ``history`` and ``question``, and the turn's answer."""
    question, answer = record.turns[turn]
    slots = {**record.slots, "history": history(record.turns[:turn]), "question": question}
    return dataclasses.replace(record, slots=slots, answers=(answer,), weights=(), references=(), turns=())


def _own(templates: Templates, record: Record) -> Sequence[str]:
    """The templates of a record's set, or else of its task. Raises ValueError if there are none."""
    own = templates.get(record.dataset) or templates.get(f"task:{record.task}")
    if not own:
        raise ValueError(
            f"set {record.dataset!r}: no instruction templates, and {record.uid} has no instruction of its own"
        )
    return own


def takes_front(templates: Templates, record: Record, choice: int) -> bool:
    """True if the template chosen by `instruction` has the slot `FRONT`."""
    if record.instruction is not None:
        return False
    own = _own(templates, record)
    return FRONT in fields(own[choice % len(own)])


def instruction(templates: Templates, record: Record, choice: int) -> str:
    """The instruction of a record: its own, or its set's template number ``choice`` (modulo their number).

    Raises ValueError naming the record and a slot of the template that the record lacks.
    """
    if record.instruction is not None:
        return record.instruction
    own = _own(templates, record)
    template = own[choice % len(own)]
    try:
        return template.format(**record.slots)
    except KeyError as error:
        slots = ", ".join(record.slots) or "none"
        raise ValueError(
            f"{record.uid}: template {template!r} has the field {error.args[0]}; slots of this record: {slots}"
        ) from None
