"""Few-shot examples and a question -> the text of a prompt, and its images."""

import dataclasses
from collections.abc import Sequence

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.few_shot import Form
from instructblip_jax.processors.base import MARK


@dataclasses.dataclass(frozen=True)
class Example:
    """A few-shot example, or the question after them, whose ``answer`` is not shown.

    Attributes:
      asked: the text before the answer, with a mark for each of ``pictures``.
      pictures: indices of the images in a bank.
    """

    uid: str
    asked: str
    answer: str
    pictures: tuple[int, ...]

    def without_pictures(self) -> "Example":
        """The example as text only."""
        return dataclasses.replace(self, asked=self.asked.replace(MARK, ""), pictures=())


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text with marks, and the indices of its images in order."""

    text: str
    pictures: tuple[int, ...]


def prompt(form: Form, heading: str, examples: Sequence[Example], question: Example, repeats: int = 0) -> Prompt:
    """The prompt that shows ``examples``, repeated ``repeats`` more times, before a question."""
    shown = list(examples) * (1 + repeats)
    text = heading + "".join(one.asked + one.answer + form.end for one in shown) + question.asked
    return Prompt(text, tuple(number for one in (*shown, question) for number in one.pictures))


def misled(examples: Sequence[Example], spare: Sequence[str]) -> list[Example]:
    """The examples, each with a wrong answer, taken from another example, so that equal answers stay equal.

    ``spare``: answers of other records, used if all examples have the same answer. Raises ValueError if there is no
    other answer.
    """
    answers = list(dict.fromkeys(one.answer for one in examples))
    if len(answers) == 1:
        answers.append(next((answer for answer in spare if answer != answers[0]), ""))
        if not answers[1]:
            raise ValueError(f"{examples[0].uid}: all examples have the answer {answers[0]!r}; leave 'wrong' out")
    wrong = dict(zip(answers, [*answers[1:], answers[0]], strict=True))
    return [dataclasses.replace(one, answer=wrong[one.answer]) for one in examples]


def own_examples(record: Record) -> tuple[str, list[Example]]:
    """A record whose parts contain examples -> the text before them, the examples, and finally the question.

    A text part belongs to the images before it; images are indices of the record's media.
    """
    heading, found = "", []
    pictures: list[int] = []
    for part in (*record.parts, *([] if record.parts and isinstance(record.parts[-1], str) else [""])):
        if isinstance(part, int):
            pictures.append(part)
        elif pictures:
            found.append(Example(record.uid, MARK * len(pictures), part, tuple(pictures)))
            pictures = []
        else:
            heading += part
    last = found.pop()
    return heading, [*found, dataclasses.replace(last, asked=last.asked + last.answer, answer="")]


def balanced(examples: Sequence[Example], count: int, order: Sequence[int]) -> list[Example]:
    """``count`` of the examples, balanced over the answers; those that come first in ``order`` (a permutation of their
    indices) are taken first, and shown in that order."""
    groups: dict[str, list[int]] = {}
    for number in order:
        groups.setdefault(examples[number].answer, []).append(number)
    ranked = sorted((place, at, number) for at, own in enumerate(groups.values()) for place, number in enumerate(own))
    chosen = {number for _, _, number in ranked[:count]}
    return [examples[number] for number in order if number in chosen]
