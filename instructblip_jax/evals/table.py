"""The table of an evaluated suite, for people and for programs."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One set's result.

    Attributes:
      split: "held_in" or "held_out".
      value: in 0..1, of CIDEr in 0..10; None where there is nothing to compare with (a blind test split).
      count: records.
      blind: the value with all pictures blanked, if that was asked for.
      interval: 95 % of the value, by bootstrap over the records.
      paper: the paper's value for this model.
      data_split: the split of the data set that was judged.
      details: what else the metric tells, how the answers were made, "notes" and the "reason" of an odd value.
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


def means(rows: Mapping[str, Row]) -> dict[str, float | None]:
    """The plain means over held-in and over held-out sets; None where there is no such value (JSON knows no nan)."""

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


def as_dict(rows: Mapping[str, Row]) -> dict[str, Any]:
    """What `evaluate --json` holds of the rows."""
    return {"sets": {name: dataclasses.asdict(row) for name, row in rows.items()}, **means(rows)}


def notes(rows: Mapping[str, Row]) -> list[str]:
    """Notes about each set for below the table, a line each."""
    told = []
    for name, row in rows.items():
        reason = [row.details["reason"]] if "reason" in row.details else []
        told += [f"{name}: {note}" for note in [*row.details.get("notes", ()), *reason]]
    return told


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def markdown(rows: Mapping[str, Row]) -> str:
    """A Markdown table, all values times 100: held-in sets, their mean, held-out sets, their mean. Columns that no row
    has anything for are left out."""
    columns = ["", "set", "split", "metric", "records", "score", "95 %", "paper", "image blanked"]
    body, overall = [], means(rows)
    for split, title in (("held_in", "held-in"), ("held_out", "held-out")):
        for name, row in rows.items():
            if row.split == split:
                span = "" if row.interval is None else f"{_percent(row.interval[0])} to {_percent(row.interval[1])}"
                score, blind = _percent(row.value), _percent(row.blind)
                told = [title, name, row.data_split, row.metric, str(row.count)]
                body.append([*told, score, span, _percent(row.paper), blind])
        score, blind = _percent(overall[f"{split}_mean"]), _percent(overall[f"{split}_mean_blind"])
        if score:
            scores = [f"**{score}**", "", "", f"**{blind}**" if blind else ""]
            body.append([f"**{title}**", "**mean**", "", "", "", *scores])
    always = {"", "set", "metric", "records", "score"}
    kept = [n for n in range(len(columns)) if columns[n] in always or any(row[n] for row in body)]
    lines = [columns, ["---"] * 4 + ["---:"] * (len(columns) - 4), *body]
    return "".join("| " + " | ".join(line[n] for n in kept) + " |\n" for line in lines)
