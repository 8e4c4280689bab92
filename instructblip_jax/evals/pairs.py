"""Input and output of the metrics: predictions with their references, and the result over a set of such pairs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instructblip_jax.data.record import Record
from instructblip_jax.evals import bootstrap

GROUPS = ("answer_type", "domain", "classes")
"""The fields of a record's ``meta`` by which scores are also broken down: each a value, or a list of several."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's output for one record: a text, or one score per candidate (one in all is enough for a binary task)."""

    text: str | None = None
    scores: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reference:
    """The ground truth of one record, reduced to what metrics read.

    Attributes:
      answers: all annotators' answers, with repetitions, or all captions of a picture.
      candidates: the choices, in the order of the prediction's scores.
      label: index of the correct candidate; 0 or 1 for a binary task.
      relevance: of each candidate, 0 to 1.
      groups: the record's values of `GROUPS`.
      difficult: A-OKVQA's official score leaves the record out.
      group: records of the same group count as correct only together (NLVR2's consistency); "" if there is none.
    """

    uid: str
    answers: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    label: int | None = None
    relevance: tuple[float, ...] = ()
    groups: Mapping[str, str | Sequence[str]] = dataclasses.field(default_factory=dict)
    difficult: bool = False
    group: str = ""


Pair = tuple[Prediction | None, Reference]
"""A missing prediction is None and counts as wrong."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A metric over a set.

    Attributes:
      value: in 0..1, CIDEr in 0..10; None if undefined.
      count: number of examples.
      scores: per-example scores, float64 [count], if the value is their mean.
      details: further numbers, by name.
      resampled: for a value that is not a mean: weights [B, count], the number of times that each example is counted,
        -> values [B].
      reason: why the value is undefined or does not depend on the predictions.
    """

    value: float | None
    count: int
    scores: np.ndarray | None = None
    details: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    resampled: Callable[[np.ndarray], np.ndarray] | None = None
    reason: str | None = None

    @property
    def statistic(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Weights [B, count] of the examples -> values [B]; None if the value is undefined."""
        if (scores := self.scores) is not None:
            return lambda weights: weights @ scores / weights.sum(axis=1)
        return self.resampled

    def interval(self, samples: int = bootstrap.SAMPLES) -> tuple[float, float] | None:
        """95 % bootstrap interval over the examples, with a fixed seed; CIDEr's document frequencies stay fixed."""
        if self.scores is not None:
            return bootstrap.mean_interval(self.scores, samples=samples)
        return bootstrap.interval(self.resampled, self.count, samples=samples) if self.resampled else None


def reference_of(record: Record, candidates: tuple[str, ...] | None = None) -> Reference:
    """The reference of a record: its ``references`` or else its ``answers``; ``candidates`` replace its own."""
    return Reference(
        uid=record.uid,
        answers=record.references or record.answers,
        candidates=record.candidates if candidates is None else candidates,
        label=record.label,
        relevance=record.relevance,
        groups={name: _values(record.meta[name]) for name in GROUPS if record.meta.get(name) is not None},
        difficult=bool(record.meta.get("difficult_direct_answer")),
        group=str(record.meta.get("group", "")),
    )


def _values(told: Any) -> str | tuple[str, ...]:
    return tuple(map(str, told)) if isinstance(told, list) else str(told)
