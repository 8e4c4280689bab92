"""What metrics read and give: a prediction beside its reference, and the result over a set of such pairs."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from instructblip_jax.data.record import Record
from instructblip_jax.evals import bootstrap

GROUPS = ("answer_type", "domain")
"""What of a record's ``meta`` a score is also told by."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one record: a text, or a score for each candidate (of a binary task one alone is enough)."""

    text: str | None = None
    scores: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a prediction is compared with; of `Record` what metrics read.

    ``answers`` are everybody's, repeated as they were given, or all captions of a picture. ``label`` is the right
    candidate's number, of a binary task 0 or 1. ``difficult``: A-OKVQA's official score leaves it out.
    """

    uid: str
    answers: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    label: int | None = None
    relevance: tuple[float, ...] = ()
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    difficult: bool = False


Pair = tuple[Prediction | None, Reference]
"""None where there is no prediction, which is judged as wrong."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A metric over a set.

    Attributes:
      value: in 0..1, of CIDEr in 0..10; None where it is not defined.
      count: how many examples it is about.
      scores: of each example, [count] float64, where the value is their mean.
      details: what else is worth telling, by name.
      resampled: of a value that is no mean: how often each example counts, [B, count] -> values [B].
      reason: why there is no value, or one that says nothing about the predictions.
    """

    value: float | None
    count: int
    scores: np.ndarray | None = None
    details: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    resampled: Callable[[np.ndarray], np.ndarray] | None = None
    reason: str | None = None

    def interval(self, samples: int = bootstrap.SAMPLES) -> tuple[float, float] | None:
        """95 % bootstrap interval over the examples, always the same; of CIDEr with its document frequencies fixed."""
        if self.scores is not None:
            return bootstrap.mean_interval(self.scores, samples=samples)
        return bootstrap.interval(self.resampled, self.count, samples=samples) if self.resampled else None


def reference_of(record: Record, candidates: tuple[str, ...] | None = None) -> Reference:
    """What metrics read of a record: its ``references``, or else its ``answers``; ``candidates``: not its own."""
    return Reference(
        uid=record.uid,
        answers=record.references or record.answers,
        candidates=record.candidates if candidates is None else candidates,
        label=record.label,
        relevance=record.relevance,
        groups={name: str(record.meta[name]) for name in GROUPS if record.meta.get(name) is not None},
        difficult=bool(record.meta.get("difficult_direct_answer")),
    )
