"""A prepared split as questions to a model: dialogues turn by turn, all captions of an image as one question."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence

from instructblip_jax.data.prepared import Records, Shown, each, media_shown
from instructblip_jax.data.record import Record, key_of
from instructblip_jax.data.templates import Templates, at_turn, check, instruction


@dataclasses.dataclass(frozen=True)
class _Question:
    """A question about the record with index ``record``: one ``turn`` of its dialogue, or all of it. ``others``:
    records with the same media and instruction, whose answers are also references."""

    record: int
    turn: int | None = None
    others: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The key by which records are grouped into questions: task, number of turns, digest of media and instruction."""

    task: str
    turns: int
    key: bytes


@dataclasses.dataclass(frozen=True)
class Questions(Records):
    """The questions of a split as records, those with fewer media first, and in the split's order otherwise.

    A dialogue's turn has the uid "UID#turnN", N counted from 1, the earlier turns in its slot ``history``, and its own
    answer. The captions of an image have the uid of the first one's record.

    Attributes:
      captions: True if the split has only captions.
      dialogues: the number of records evaluated turn by turn.
    """

    source: Sequence[Record]
    order: tuple[_Question, ...]
    captions: bool = False
    dialogues: int = 0

    def __len__(self) -> int:
        return len(self.order)

    @functools.cached_property
    def shown(self) -> Shown:
        """See `Records`."""
        whole = media_shown(self.source)
        return Shown(whole.kinds, whole.numbers[[question.record for question in self.order]])

    def record(self, index: int) -> Record:
        """See `Records`."""
        question = self.order[index]
        record = self.source[question.record]
        if question.turn is not None:
            return dataclasses.replace(at_turn(record, question.turn), uid=f"{record.uid}#turn{question.turn + 1}")
        if question.others:
            members = (record, *(self.source[n] for n in question.others))
            references = tuple(text for one in members for text in one.references or one.answers)
            return dataclasses.replace(record, answers=tuple(dict.fromkeys(references)), references=references)
        return record


def questions(source: Sequence[Record], templates: Templates, *, known: bool) -> Questions:
    """The questions of a split. A ``known`` set has no dialogues, and already one record per image; any other is read
    once, to classify its records and to check that each has a question.

    Raises ValueError naming the set or the record that ``templates`` do not fit.
    """
    check(templates, source[0])
    if known:
        order, captions, dialogues = [_Question(n) for n in range(len(source))], False, 0
    else:
        seen = list(each(source, functools.partial(_seen, templates=templates)))
        captions = all(one.task == "caption" and not one.turns for one in seen)
        dialogues = sum(one.turns > 0 for one in seen)
        order = _together(seen) if captions else _turn_by_turn(seen)
    ranks = media_shown(source).order
    order.sort(key=lambda question: ranks[question.record])  # all rows of a batch have the same kinds of media
    return Questions(source, tuple(order), captions, dialogues)


def _seen(record: Record, templates: Templates) -> _Seen:
    asked = [at_turn(record, turn) for turn in range(len(record.turns))] or [record]
    texts = [instruction(templates, one, 0) for one in asked]
    content = json.dumps([texts, [key_of(medium.data).hex() for medium in record.media] or record.uid])
    return _Seen(record.task, len(record.turns), hashlib.blake2b(content.encode(), digest_size=16).digest())


def _turn_by_turn(seen: Sequence[_Seen]) -> list[_Question]:
    return [_Question(n, turn) for n, one in enumerate(seen) for turn in (range(one.turns) if one.turns else [None])]


def _together(seen: Sequence[_Seen]) -> list[_Question]:
    members: dict[bytes, list[int]] = {}
    for n, one in enumerate(seen):
        members.setdefault(one.key, []).append(n)
    return [_Question(own[0], others=tuple(own[1:])) for own in members.values()]
