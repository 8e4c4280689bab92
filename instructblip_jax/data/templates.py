"""Instruction templates: `str.format` texts over a record's slots."""

import dataclasses
import string
from collections.abc import Mapping, Sequence

from instructblip_jax.data.record import Record

Templates = Mapping[str, Sequence[str]]
"""Set name -> its templates."""


def fields(template: str) -> set[str]:
    """The slot names in a template. Raises ValueError for broken braces."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def check(templates: Templates, example: Record) -> None:
    """Check the templates of one set against one of its records.

    Raises ValueError naming the set, the template, the field, and the slots there are.
    """
    name = example.dataset
    if example.instruction is not None:
        return
    example = at_turn(example, 0) if example.turns else example
    if not templates.get(name):
        raise ValueError(f"set {name!r}: no instruction templates, and its records bring no instruction of their own")
    for template in templates[name]:
        try:
            unknown = fields(template) - set(example.slots)
            if not unknown:
                template.format(**example.slots)  # a format or conversion that a text does not have
        except (ValueError, KeyError) as error:
            raise ValueError(f"set {name!r}: template {template!r} is malformed ({error})") from error
        if unknown:
            slots = ", ".join(example.slots) or "none"
            raise ValueError(
                f"set {name!r}: template {template!r} has the field {', '.join(sorted(unknown))}; slots: {slots}"
            )


def history(turns: Sequence[tuple[str, str]]) -> str:
    """What was said before, in words; "" where nothing was."""
    return "".join(f"Question: {question} Answer: {answer}\n" for question, answer in turns)


def at_turn(record: Record, turn: int) -> Record:
    """The record as it stands before the answer of a turn: slots ``history`` and ``question``, one answer."""
    question, answer = record.turns[turn]
    slots = {**record.slots, "history": history(record.turns[:turn]), "question": question}
    return dataclasses.replace(record, slots=slots, answers=(answer,), turns=())


def instruction(templates: Templates, record: Record, choice: int) -> str:
    """The instruction of a record: its own, or its set's template number ``choice`` (modulo their number)."""
    if record.instruction is not None:
        return record.instruction
    own = templates[record.dataset]
    return own[choice % len(own)].format(**record.slots)
