"""A visit of a record in training: its texts, drawn anew each time, or a part of a document."""

import bisect
import dataclasses
from collections.abc import Iterable

import numpy as np

from instructblip_jax.data import documents
from instructblip_jax.data.buckets import Shape
from instructblip_jax.data.documents import WHOLE, DocumentsConfig
from instructblip_jax.data.record import DOCUMENT, Record
from instructblip_jax.data.templates import FRONT, Templates, at_turn, instruction, takes_front
from instructblip_jax.processors.base import BaseProcessor, Row


@dataclasses.dataclass(frozen=True)
class Visit:
    """The part of a record that is read.

    Attributes:
      text: token rows.
      lengths: tokens of instruction and response; a document is all response.
      shown: indices of the record's media that are read; None means all.
    """

    text: Row
    lengths: Shape
    shown: tuple[int, ...] | None = None

    def of(self, record: Record) -> Record:
        """The record with the media that are read."""
        if self.shown is None:
            return record
        return dataclasses.replace(record, media=tuple(record.media[n] for n in self.shown))


def visit(
    record: Record,
    rng: np.random.Generator,
    templates: Templates,
    processor: BaseProcessor,
    largest: Shape | None = None,
    reading: DocumentsConfig = WHOLE,
    following: Iterable[Record] = (),
) -> Visit | None:
    """The part of a record that is read; None if this visit is skipped (`DocumentsConfig`).

    A document is cut to the response length of ``largest``, and a conversation loses its last turns; other texts of any
    length are kept. ``following``: the records after it, for packed rows of texts without images. Raises ValueError
    like `text_of`, and for a document if this system does not read documents.
    """
    if record.task != DOCUMENT:
        text = text_of(record, rng, templates, processor, largest)
        return Visit(text, processor.lengths(text))
    found = documents.read(record, rng, processor, reading, None if largest is None else largest[1], following)
    return None if found is None else Visit(found.row, (0, sum(processor.lengths(found.row))), found.shown)


def drawn(record: Record, rng: np.random.Generator, templates: Templates) -> tuple[str, str]:
    """An instruction and an answer of a record, with random template, turn and answer, and a random split of the answer
    if the template takes its first part."""
    if not record.answers and not record.turns:
        raise ValueError(f"{record.uid}: has no answer to train on")
    choice = int(rng.integers(1 << 30))
    if record.turns:
        turn = int(rng.integers(len(record.turns)))
        return instruction(templates, at_turn(record, turn), choice), record.turns[turn][1]
    if record.weights:
        answer = record.answers[int(rng.choice(len(record.answers), p=record.weights))]
    else:
        answer = record.answers[int(rng.integers(len(record.answers)))]
    if takes_front(templates, record, choice):
        words = answer.split()
        cut = int(rng.integers(1, max(len(words), 2)))  # a single word is only response
        front, rest = (words[:cut], words[cut:]) if len(words) > 1 else ([], words)
        record, answer = dataclasses.replace(record, slots={**record.slots, FRONT: " ".join(front)}), " ".join(rest)
    return instruction(templates, record, choice), answer


def text_of(
    record: Record,
    rng: np.random.Generator,
    templates: Templates,
    processor: BaseProcessor,
    largest: Shape | None = None,
) -> Row:
    """The token rows of a record in training: those of `drawn`, or of a whole conversation if the processor reads them
    (`BaseProcessor.converses`). A conversation loses its last turns until it fits ``largest``, but never the first.

    Raises ValueError naming a record without an answer, or one that the processor cannot represent.
    """
    pictures = processor.shown(tuple(medium.kind for medium in record.media))
    if not processor.converses:
        return processor.encode(*drawn(record, rng, templates), training=True, pictures=pictures)
    turns = record.turns or (drawn(record, rng, templates),)

    def converse(count: int) -> Row:
        try:
            return processor.converse(turns[:count], pictures)
        except ValueError as error:
            raise ValueError(f"{record.uid}: {error}") from error

    def too_long(count: int) -> bool:
        return not fits(processor.lengths(converse(count)), largest)

    count = len(turns)
    if count > 1 and largest is not None and too_long(count):
        count = max(1, bisect.bisect_left(range(1, count), True, key=too_long))
    return converse(count)


def fits(lengths: Shape, largest: Shape | None) -> bool:
    return largest is None or (lengths[0] <= largest[0] and lengths[1] <= largest[1])
