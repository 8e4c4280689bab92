"""Answers to a set's questions with few-shot examples, for each number of examples and each support."""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from instructblip_jax.data.prepared import Records
from instructblip_jax.data.record import Record
from instructblip_jax.data.templates import at_turn
from instructblip_jax.datasets.few_shot import Form
from instructblip_jax.evals.few_shot import support
from instructblip_jax.evals.few_shot.bank import Bank
from instructblip_jax.evals.few_shot.prompts import Example, Prompt, balanced, misled, own_examples, prompt
from instructblip_jax.evals.judge import line
from instructblip_jax.evals.open_set import OpenSet
from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.evals.predict import candidate_lists, chosen, scored, written
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run.evaluation import EvaluationConfig
from instructblip_jax.systems.protocol import Media

LENGTH_STEP = 64
"""Texts are padded to a multiple of this many tokens."""
SLACK = 16
"""A static length has room for texts 1/SLACK longer than the longest one so far."""
SPARES = 64
"""Number of records whose answers can serve as wrong answers."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A set, and how its questions are asked.

    Attributes:
      source: the training split that examples are taken from; None if the records themselves contain them.
      open_ended: True if answers are generated, False if candidates are ranked.
    """

    opened: OpenSet
    form: Form
    suite: EvaluationConfig
    source: Records | None

    @property
    def open_ended(self) -> bool:
        return self.opened.spec.mode == "generate"

    def texts(self, shots: int) -> int:
        """The number of examples that are shown as text only."""
        if shots or not self.open_ended or self.source is None:
            return 0
        return self.form.texts if self.suite.few_shot.texts < 0 else self.suite.few_shot.texts

    def seeds(self, shots: int) -> int:
        """The number of supports; one if the prompt shows no example."""
        return self.suite.few_shot.seeds if shots or self.texts(shots) else 1

    def controls(self, shots: int) -> tuple[str, ...]:
        """Control prompts, answered in addition to the one with unchanged examples."""
        return tuple(name for name in self.suite.few_shot.controls if shots or name == "blank")


class Support:
    """The examples of a training split, with their images encoded once; see `support.drawn` and `support.similar`."""

    def __init__(self, model: Model, processor: BaseProcessor, task: Task):
        assert task.source is not None
        few, shots = task.suite.few_shot, task.suite.shots
        self.task = task
        # All random supports share one pool, so that few images are encoded. Selection by similarity gives one support.
        drawn_by = range(few.seeds) if few.selection == "rices" else [0] * few.seeds
        self.pools = [support.pool(len(task.source), few.pool, seed) for seed in drawn_by]
        most = max(*shots, *map(task.texts, shots)) if shots else 0
        if (least := min(map(len, self.pools))) < most:
            raise ValueError(
                f"{task.opened.name}: {most} examples are requested, but only {least} records are available; "
                "lower config.evaluation.shots, or raise config.evaluation.few_shot.pool"
            )
        # [seeds, questions, most]; selection by similarity may take any record of a pool.
        self.draws = np.zeros((few.seeds, 0, most), np.int32)
        if few.selection == "random":
            each = range(len(task.opened.asked))
            self.draws = np.array(
                [[support.drawn(own, n, most, seed) for n in each] for seed, own in enumerate(self.pools)], np.int32
            )
        taken = self.draws if few.selection == "random" else np.concatenate(self.pools)
        self.texts: dict[int, Example] = {}
        seen = set(np.unique(taken[..., : max(shots)] if few.selection == "random" else taken).tolist())
        self.bank = Bank(model, processor, task.suite.batch_size)
        self.bank.fill(self._read(np.unique(taken), seen))
        self._similar: list[tuple[np.ndarray, np.ndarray]] = []
        if few.selection == "rices" and len(self.bank):
            features, places = self.bank.features, self.bank.places
            for own in self.pools:
                own = np.array([n for n in own.tolist() if (n, 0) in places])
                self._similar.append((own, features[[places[n, 0] for n in own.tolist()]]))

    def _read(self, used: np.ndarray, seen: Collection[int]) -> Iterator[tuple[int, Record]]:
        """The records that are used, in order; those not in ``seen`` without their images."""
        source, opened, form = self.task.source, self.task.opened, self.task.form
        assert source is not None
        for n in used.tolist():
            record = source[n]
            record = at_turn(record, 0) if record.turns else record
            if not record.answers:
                raise ValueError(f"{record.uid}: has no answer, so it cannot be an example; evaluate without shots")
            pictures = _pictures(self.bank.processor, record)
            asked = form.asked(opened.templates, record, len(pictures)) + form.answer
            self.texts[n] = Example(record.uid, asked, record.answers[0], pictures)
            yield n, record if n in seen else dataclasses.replace(record, media=())

    def chosen(self, question: int, shots: int, seed: int, features: np.ndarray | None) -> list[Example]:
        """The examples of a question, the most similar last, with the indices of their images in the bank; ``features``
        belong to the question's image."""
        if not self._similar:
            numbers = self.draws[seed, question, :shots][::-1]
        elif features is None:
            raise ValueError(f"{self.task.opened.name}: a question has no image; selection 'rices' compares images")
        else:
            numbers = support.similar(*self._similar[seed], features, shots)
        places = self.bank.places
        known = {n: self.texts[n] for n in numbers.tolist()}
        return [
            dataclasses.replace(one, pictures=tuple(places.get((n, at), -1) for at in one.pictures))
            for n, one in known.items()
        ]

    @cached_property
    def spare(self) -> list[str]:
        """Answers of several examples."""
        return [one.answer for one in itertools.islice(self.texts.values(), SPARES)]


@dataclasses.dataclass
class Shapes:
    """The static shape of the prompts with a given number of examples; it grows on demand."""

    length: int = 0
    pictures: int = 1

    def grow(self, length: int, pictures: int) -> None:
        """Make room for a text of ``length`` tokens and the given number of pictures."""
        self.pictures = max(self.pictures, pictures)
        if length > self.length:
            self.length = -(-(length + length // SLACK) // LENGTH_STEP) * LENGTH_STEP


class Asking:
    """Answers a set. ``encoded``: the number of images that went through the tower, of examples and of questions."""

    def __init__(self, model: Model, processor: BaseProcessor, task: Task):
        self.model, self.processor, self.task = model, processor.holding(()), task
        self.support = Support(model, self.processor, task) if task.source is not None else None
        self.shapes = {shots: Shapes() for shots in task.suite.shots}
        self.encoded = {"examples": self.support.bank.encoded if self.support else 0, "questions": 0}
        self._blank: Media | None = None

    def lines(self, done: Mapping[int, int]) -> Iterator[dict[int, list[str]]]:
        """Number of examples -> lines (`judge.line`) of each batch of questions, one line per question and support.

        ``done``: number of examples -> the number of questions already answered. All hosts of a job iterate together.
        """
        asked, size = self.task.opened.asked, self.task.suite.batch_size
        for first in range(min(done.values()), len(asked), size):
            records = {n: asked[n] for n in range(first, min(first + size, len(asked)))}
            bank = Bank(self.model, self.processor, size).fill(records.items())
            self.encoded["questions"] += bank.encoded
            rices = self.task.suite.few_shot.selection == "rices" and self.support and len(bank)
            features = bank.features if rices else None
            out = {}
            for shots, answered in done.items():
                left = {n: record for n, record in records.items() if n >= answered}
                out[shots] = self._answered(shots, left, bank, features) if left else []
            yield out

    def _answered(
        self, shots: int, records: Mapping[int, Record], bank: Bank, features: np.ndarray | None
    ) -> list[str]:
        task = self.task
        before = self.support.bank.size if self.support else 0
        both = [*([self.support.bank] if self.support else []), bank]
        banks = [one.media for one in both if one.size]
        asked = {n: self._question(n, record, bank, before) for n, record in records.items()}
        found: list[dict[str, list[Prediction]]] = []
        shown: list[list[list[Example]]] = []
        for seed in range(task.seeds(shots)):
            examples = [self._examples(n, record, shots, seed, bank, before, features) for n, record in records.items()]
            kinds = {"prediction": [own for own, _ in examples]}
            if "wrong" in task.controls(shots):
                kinds["wrong"] = [misled(own, spare) for own, spare in examples]
            shown.append(kinds["prediction"])
            answers = {
                name: self._predicted(shots, seed, own, asked, records, banks, blank=False)
                for name, own in kinds.items()
            }
            if "blank" in task.controls(shots):
                answers["blind"] = self._predicted(
                    shots, seed, kinds["prediction"], asked, records, [self._blanked(bank)], blank=True
                )
            found.append(answers)
        return [
            self._line(record, asked[n][1], seed, shown[seed][at], {name: own[at] for name, own in answers.items()})
            for at, (n, record) in enumerate(records.items())
            for seed, answers in enumerate(found)
        ]

    def _question(self, number: int, record: Record, bank: Bank, before: int) -> tuple[str, Example]:
        """The text at the head of the prompt, and its question."""
        few, form = self.task.suite.few_shot, self.task.form
        if self.support is None:
            heading, examples = own_examples(record)
            return few.heading or heading, _placed(examples[-1], number, bank, before)
        pictures = _pictures(self.processor, record)
        asked = form.asked(self.task.opened.templates, record, len(pictures))
        question = Example(record.uid, asked, "", pictures)
        return few.heading or form.begin(record.task), _placed(question, number, bank, before)

    def _examples(
        self,
        number: int,
        record: Record,
        shots: int,
        seed: int,
        bank: Bank,
        before: int,
        features: np.ndarray | None,
    ) -> tuple[list[Example], list[str]]:
        """The examples of a question, and answers of other records."""
        if self.support is None:
            own = own_examples(record)[1][:-1]
            if len(own) < shots:
                raise ValueError(
                    f"{record.uid}: contains {len(own)} examples, but config.evaluation.shots asks for {shots}"
                )
            order = list(range(len(own)))
            if seed:  # the first support keeps the order of the release
                order = np.random.default_rng((seed, number)).permutation(len(own)).tolist()
            taken = balanced(own, shots, order)
            return [_placed(one, number, bank, before) for one in taken], [one.answer for one in own]
        place = bank.places.get((number, 0))
        like = features[place] if features is not None and place is not None else None
        texts = self.task.texts(shots)
        taken = self.support.chosen(number, shots or texts, seed, like)
        return [one.without_pictures() for one in taken] if texts else taken, self.support.spare

    def _predicted(
        self,
        shots: int,
        seed: int,
        examples: Sequence[Sequence[Example]],
        asked: Mapping[int, tuple[str, Example]],
        records: Mapping[int, Record],
        banks: Sequence[Media],
        *,
        blank: bool,
    ) -> list[Prediction]:
        """The predictions for the records of a batch, each with its examples in the prompt."""
        task, rows = self.task, list(records.values())
        few, spec = task.suite.few_shot, task.opened.spec
        turns = [
            support.orders(len(own), 1 if task.open_ended else few.orders, n, seed)
            for own, n in zip(examples, records, strict=True)
        ]
        scores = []
        lists = [] if task.open_ended else candidate_lists(rows, spec, task.opened.vocabulary)
        for at in range(len(turns[0])):
            prompts = [
                prompt(task.form, heading, [own[n] for n in orders[at]], question, few.repeats)
                for own, orders, (heading, question) in zip(examples, turns, asked.values(), strict=True)
            ]
            media, text = self._batch(shots, prompts, banks, blank=blank)
            if task.open_ended:
                told = written(self.model, self.processor, media, text, rows, spec)
                return [Prediction(task.form.cut(row.task, str(one.text))) for row, one in zip(rows, told, strict=True)]
            scores.append(scored(self.model, self.processor, media, text, lists, spec))
        return chosen(np.mean(scores, axis=0), lists, spec)

    def _batch(
        self, shots: int, prompts: Sequence[Prompt], banks: Sequence[Media], *, blank: bool
    ) -> tuple[Media, Mapping[str, np.ndarray]]:
        """Media and texts of prompts, padded to the batch size with copies of the first one."""
        size, shape = self.task.suite.batch_size, self.shapes[shots]
        filled = [*prompts, *[prompts[0]] * (size - len(prompts))]
        rows = [self.processor.encode(one.text, pictures=len(one.pictures)) for one in filled]
        longest = max(self.processor.lengths(row)[0] for row in rows)
        shape.grow(longest, max(len(one.pictures) for one in filled))
        place = np.full((size, shape.pictures), -1, np.int32)
        for row, one in zip(place, filled, strict=True):
            row[: len(one.pictures)] = 0 if blank else one.pictures
        kinds = ("image",) * shape.pictures
        text = self.processor.batch(rows, shape.length, kinds=kinds, training=False)
        return self.model.arrange(banks, place), text

    def _blanked(self, bank: Bank) -> Media:
        if self._blank is None:
            own = bank if bank.size or self.support is None else self.support.bank
            self._blank = own.blank()
        return self._blank

    def _line(
        self, record: Record, question: Example, seed: int, shown: Sequence[Example], found: Mapping[str, Prediction]
    ) -> str:
        more: dict[str, Any] = {"seed": seed}
        if self.support is not None:
            more["examples"] = [one.uid for one in shown]
        if "wrong" in found:
            more |= {"wrong": found["wrong"].text, "wrong_scores": found["wrong"].scores}
        return line(record, question.asked, found["prediction"], found.get("blind"), **more)


def _pictures(processor: BaseProcessor, record: Record) -> tuple[int, ...]:
    """The indices of a record's images."""
    return tuple(range(processor.shown(tuple(medium.kind for medium in record.media))))


def _placed(example: Example, number: int, bank: Bank, before: int) -> Example:
    """The example with its image indices shifted past those of the bank of examples."""
    return dataclasses.replace(example, pictures=tuple(before + bank.places[number, at] for at in example.pictures))
