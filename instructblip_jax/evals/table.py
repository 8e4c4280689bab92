"""The results of an evaluated suite as Markdown tables and as JSON."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from instructblip_jax.datasets.readers.scienceqa_reasons import CLASSES

RECALLS = ("TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10")
"""Recall of a picture's texts (text retrieval), and of a text's picture (image retrieval), among the first 1, 5, 10."""


@dataclasses.dataclass(frozen=True)
class SetResult:
    """The result of one set.

    Attributes:
      split: "held_in" or "held_out".
      value: 0..1, for CIDEr 0..10; None without references (a blind test split).
      count: records.
      blind: the value with all images blanked, if that was evaluated.
      interval: 95 % confidence interval of the value, by bootstrap over the records.
      paper: the paper's value for this model.
      data_split: the split of the dataset that was evaluated.
      details: further figures of the metric, the generation settings, "notes", and the "reason" for an unusual value.
      shots: number of few-shot examples -> score; see `few_shot.result`. ``value`` is then that of the most examples.
    """

    split: str
    metric: str
    value: float | None
    count: int
    blind: float | None = None
    interval: tuple[float, float] | None = None
    paper: float | None = None
    data_split: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shots: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def means(rows: Mapping[str, SetResult]) -> dict[str, float | None]:
    """The means over held-in and over held-out sets; None if no set has a value (JSON has no NaN)."""

    def mean(split: str, field: str) -> float | None:
        values = [getattr(row, field) for row in rows.values() if row.split == split]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    return {
        "held_in_mean": mean("held_in", "value"),
        "held_in_mean_blind": mean("held_in", "blind"),
        "held_out_mean": mean("held_out", "value"),
        "held_out_mean_blind": mean("held_out", "blind"),
    }


def as_dict(rows: Mapping[str, SetResult]) -> dict[str, Any]:
    """The results in the form of `evaluate --json`."""
    sets = {name: dataclasses.asdict(row) for name, row in rows.items()}
    for one in sets.values():
        if not one["shots"]:
            del one["shots"]
    return {"sets": sets, **means(rows)}


def notes(rows: Mapping[str, SetResult]) -> list[str]:
    """Notes about each set, to print below the table, one line each."""
    lines = []
    for name, row in rows.items():
        reason = [row.details["reason"]] if "reason" in row.details else []
        lines += [f"{name}: {note}" for note in [*row.details.get("notes", ()), *reason]]
    return lines


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def markdown(rows: Mapping[str, SetResult]) -> str:
    """A Markdown table, all values times 100: held-in sets, their mean, held-out sets, their mean.

    Columns that would be empty are left out.
    """
    columns = ["", "set", "split", "metric", "records", "score", "95 %", "paper", "image blanked"]
    body, overall = [], means(rows)
    for split, title in (("held_in", "held-in"), ("held_out", "held-out")):
        for name, row in rows.items():
            if row.split == split:
                span = "" if row.interval is None else f"{_percent(row.interval[0])} to {_percent(row.interval[1])}"
                score, blind = _percent(row.value), _percent(row.blind)
                first = [title, name, row.data_split, row.metric, str(row.count)]
                body.append([*first, score, span, _percent(row.paper), blind])
        score, blind = _percent(overall[f"{split}_mean"]), _percent(overall[f"{split}_mean_blind"])
        if score:
            scores = [f"**{score}**", "", "", f"**{blind}**" if blind else ""]
            body.append([f"**{title}**", "**mean**", "", "", "", *scores])
    always = {"", "set", "metric", "records", "score"}
    kept = [n for n in range(len(columns)) if columns[n] in always or any(row[n] for row in body)]
    lines = [columns, ["---"] * 4 + ["---:"] * (len(columns) - 4), *body]
    return "".join("| " + " | ".join(line[n] for n in kept) + " |\n" for line in lines)


def by_class(rows: Mapping[str, SetResult]) -> str:
    """ScienceQA's table by class, in Markdown and percent: one row per set with `CLASSES`; "" if there is none.

    The average is the set's score, over all records. A class without records has an empty cell.
    """
    lines = [["", *CLASSES, "Avg"], ["---"] + ["---:"] * (len(CLASSES) + 1)]
    for name, row in rows.items():
        found = row.details.get("classes", {})
        if any(one in found for one in CLASSES):
            values = [*(found[one]["value"] if one in found else None for one in CLASSES), row.value]
            lines.append([name, *("" if value is None else f"{100 * value:.2f}" for value in values)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) if len(lines) > 2 else ""


def recalls(rows: Mapping[str, SetResult], papers: Mapping[str, Sequence[float]]) -> str:
    """The table of the retrieval sets, in Markdown and percent: by similarity, re-ranked (if there was re-ranking), and
    the paper's recalls from ``papers``, in percent; "" if there is no such set."""
    lines = [["", "", *RECALLS, "mean"], ["---"] * 2 + ["---:"] * (len(RECALLS) + 1)]
    for name, row in rows.items():
        if "by_similarity" not in row.details:
            continue
        found = {
            way: [100 * row.details[field][one] for one in RECALLS]
            for way, field in (("by similarity", "by_similarity"), ("ranked again", "recalls"))
            if field in row.details
        }
        for way, numbers in {**found, **({"paper": papers[name]} if name in papers else {})}.items():
            lines.append([name, way, *(f"{x:.1f}" for x in (*numbers, statistics.fmean(numbers)))])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) if len(lines) > 2 else ""
