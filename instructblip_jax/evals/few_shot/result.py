"""Scores over numbers of examples, computed from a set's saved predictions without a model."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from instructblip_jax.evals import bootstrap
from instructblip_jax.evals.judge import reference
from instructblip_jax.evals.metrics import METRICS
from instructblip_jax.evals.pairs import Pair, Prediction, Result
from instructblip_jax.evals.suite import EvalSpec
from instructblip_jax.evals.table import SetResult

FIELDS = {"wrong": "wrong", "blank": "blind"}
"""Control -> the field of a line that has its prediction; its scores are in the field with the suffix "_scores"."""


def score(spec: EvalSpec, lines: Sequence[Mapping[str, Any]], field: str = "prediction") -> dict[str, Any]:
    """The score of predictions with several supports, all over the same questions.

    Returns "value", the mean over supports; "low" and "high", its 95 % bootstrap interval over supports and questions;
    "values", one per support; "seeds", the number of supports; and "count", that of questions. Undefined values are
    None.
    """
    found = results(spec, lines, field)
    interval = _interval(found)
    values = [result.value for result in found]
    known = [value for value in values if value is not None]
    return {
        "value": statistics.fmean(known) if known and len(known) == len(values) else None,
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "seeds": len(found),
        "count": found[0].count if found else 0,
        "values": values,
    }


def results(spec: EvalSpec, lines: Sequence[Mapping[str, Any]], field: str = "prediction") -> list[Result]:
    """The results of the predictions in ``field`` of the parsed lines, one per "seed" in ascending order."""
    scores = "scores" if field == "prediction" else f"{field}_scores"
    runs: dict[int, list[Pair]] = {}
    for fields in lines:
        own = reference(fields, spec)
        if own.answers or own.label is not None:
            pair = (Prediction(fields[field], tuple(fields.get(scores, ()))), own)
            runs.setdefault(fields["seed"], []).append(pair)
    return [METRICS[spec.metric](runs[seed]) for seed in sorted(runs)]


def _interval(runs: Sequence[Result]) -> tuple[float, float] | None:
    known = [statistic for result in runs if (statistic := result.statistic) is not None]
    if not known or len(known) < len(runs):
        return None
    return bootstrap.mean_of_runs(known, runs[0].count)


def curve(spec: EvalSpec, lines: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Number of examples -> `score`, with "controls" {name: its score} if there are any."""
    out = {}
    for shots in sorted(lines):
        own = lines[shots]
        controls = {name: score(spec, own, field) for name, field in FIELDS.items() if own and field in own[0]}
        out[str(shots)] = score(spec, own) | ({"controls": controls} if controls else {})
    return out


def judged(
    half: str, spec: EvalSpec, lines: Mapping[int, Sequence[Mapping[str, Any]]], notes: Sequence[str], how: Any
) -> SetResult:
    """The result of a set, whose score is that with the most examples.

    Args:
      half: "held_in" or "held_out".
      lines: number of examples -> the parsed lines of predictions.
      how: everything that the prompts depend on, as JSON.
    """
    shots = curve(spec, lines)
    most = shots[str(max(lines))]
    known = most["low"] is not None
    blind = most.get("controls", {}).get("blank", {}).get("value")
    details = {"judging": vars(spec), "few_shot": how, "notes": list(notes)}
    if not most["count"]:
        details["reason"] = "a blind split"
    return SetResult(
        half,
        spec.metric,
        most["value"],
        most["count"],
        blind=blind,
        interval=(most["low"], most["high"]) if known else None,
        data_split=spec.split,
        details=details,
        shots=shots,
    )


def markdown(rows: Mapping[str, SetResult]) -> str:
    """A Markdown table with a line for each set and number of examples, all scores times 100; "" if there is none."""
    columns = ["set", "metric", "records", "shots", "score", "95 %", "seeds", "wrong examples", "image blanked"]
    body = []
    for name, row in rows.items():
        for shots, found in row.shots.items():
            controls = found.get("controls", {})
            beside = [_control(controls.get(control)) for control in FIELDS]
            first = [name, row.metric, str(found["count"]), shots]
            body.append([*first, _percent(found["value"]), _span(found), str(found["seeds"]), *beside])
    if not body:
        return ""
    kept = [n for n in range(len(columns)) if any(line[n] for line in body)]
    lines = [columns, ["---"] * 2 + ["---:"] * (len(columns) - 2), *body]
    return "".join("| " + " | ".join(line[n] for n in kept) + " |\n" for line in lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _span(found: Mapping[str, Any]) -> str:
    return "" if found["low"] is None else f"{_percent(found['low'])} to {_percent(found['high'])}"


def _control(found: Mapping[str, Any] | None) -> str:
    return f"{_percent(found['value'])} ({_span(found)})" if found else ""
