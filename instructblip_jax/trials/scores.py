"""The scores of a configuration's runs, with intervals over runs and questions, from their saved predictions."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from instructblip_jax.evals import bootstrap, recall
from instructblip_jax.evals.few_shot import result
from instructblip_jax.evals.store import finished
from instructblip_jax.evals.suite import EvalSpec
from instructblip_jax.run.workdir import Workdir

HALVES = {"held_in": "held-in", "held_out": "held-out", "retrieval": "retrieval", "few_shot": "few-shot"}
"""Group of sets -> its title. Retrieval sets and few-shot sets form separate groups."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights [B, questions] -> scores [B]."""


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of one set, or the mean over several.

    Attributes:
      group: one of `HALVES`.
      metric: "" for a mean over several sets.
      value: the mean over the runs; None if it is undefined.
      low, high: 95 % bootstrap interval over runs and questions.
      values: one per run.
      count: number of questions, or of sets.
      shots: number of few-shot examples; None without.
    """

    group: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    values: tuple[float | None, ...]
    count: int
    shots: int | None = None
    drawn: tuple[Statistic, ...] = dataclasses.field(default=(), repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "drawn"}


def of_runs(workdirs: Sequence[Workdir], evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Set -> its score over runs that differ in their seeds; SET@N for a set with N few-shot examples."""
    found: dict[str, Score] = {}
    for name, row in evaluations[0]["sets"].items():
        if row["metric"] == recall.METRIC:
            found[name] = _score("retrieval", recall.METRIC, [_recalled(workdir, name) for workdir in workdirs])
            continue
        spec = EvalSpec(**row["details"]["judging"])
        for shots in row.get("shots") or [None]:
            kept = name if shots is None else f"{name}@{shots}"
            runs = [_judged(workdir, kept, spec) for workdir in workdirs]
            group = row["split"] if shots is None else "few_shot"
            found[kept] = dataclasses.replace(
                _score(group, spec.metric, runs), shots=None if shots is None else int(shots)
            )
    return found


def means(sets: Mapping[str, Score]) -> dict[str, Score]:
    """Group -> the mean over its sets, with equal weights; few-shot sets count with the most examples."""
    found = {}
    for group in HALVES:
        own = [score for score in sets.values() if score.group == group]
        most = max((score.shots or 0 for score in own), default=0)
        own = [score for score in own if (score.shots or 0) == most]
        if own and all(score.drawn for score in own):
            values = tuple(statistics.fmean(run) for run in zip(*(score.values for score in own), strict=True))
            interval = bootstrap.mean_of_sets([(score.drawn, score.count) for score in own])
            found[group] = _with_interval(Score(group, "", None, None, None, values, len(own)), interval)
    return found


def _score(group: str, metric: str, runs: Sequence[tuple[float | None, int, Statistic | None]]) -> Score:
    """``runs``: for each run its value, number of questions, and statistic."""
    values, counts, drawn = zip(*runs, strict=True)
    known = tuple(statistic for statistic in drawn if statistic is not None)
    score = Score(group, metric, None, None, None, values, counts[0])
    if len(known) < len(runs) or not counts[0]:
        return score
    return _with_interval(dataclasses.replace(score, drawn=known), bootstrap.mean_of_runs(known, counts[0]))


def _with_interval(score: Score, interval: tuple[float, float] | None) -> Score:
    low, high = interval or (None, None)
    known = [value for value in score.values if value is not None]
    return dataclasses.replace(score, value=statistics.fmean(known), low=low, high=high)


def _recalled(workdir: Workdir, name: str) -> tuple[float, int, Statistic]:
    lines = _lines(workdir, name)
    way = len(lines[0]["image_to_text"]) - 1  # re-ranked, if there was re-ranking
    statistic = partial(recall.weighted, lines, way)
    return float(statistic(np.ones((1, len(lines))))[0]), len(lines), statistic


def _judged(workdir: Workdir, name: str, spec: EvalSpec) -> tuple[float | None, int, Statistic | None]:
    """The mean over supports, if there are several."""
    found = result.results(spec, [{"seed": 0} | line for line in _lines(workdir, name)])
    values = [one.value for one in found if one.value is not None]
    drawn = [one.statistic for one in found if one.statistic is not None]
    if not found or len(values) < len(found) or len(drawn) < len(found):
        return None, found[0].count if found else 0, None
    return statistics.fmean(values), found[0].count, lambda weights: np.mean([own(weights) for own in drawn], axis=0)


def _lines(workdir: Workdir, name: str) -> list[dict[str, Any]]:
    return list(map(json.loads, finished(workdir, name)))
