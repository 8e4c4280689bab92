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
      details: what else the metric tells, and how the answers were made.
    """

    split: str
    metric: str
    value: float | None
    count: int
    blind: float | None = None
    interval: tuple[float, float] | None = None
    paper: float | None = None
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


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def markdown(rows: Mapping[str, Row]) -> str:
    """A Markdown table, all values times 100: held-in sets, their mean, held-out sets, their mean. Columns that no row
    has anything for are left out."""
    columns = ["", "set", "metric", "records", "score", "95 %", "paper", "image blanked"]
    body, overall = [], means(rows)
    for split, title in (("held_in", "held-in"), ("held_out", "held-out")):
        for name, row in rows.items():
            if row.split == split:
                span = "" if row.interval is None else f"{_percent(row.interval[0])} to {_percent(row.interval[1])}"
                score, blind = _percent(row.value), _percent(row.blind)
                body.append([title, name, row.metric, str(row.count), score, span, _percent(row.paper), blind])
        score, blind = _percent(overall[f"{split}_mean"]), _percent(overall[f"{split}_mean_blind"])
        if score:
            means_row = [f"**{title}**", "**mean**", "", "", f"**{score}**", "", "", f"**{blind}**" if blind else ""]
            body.append(means_row)
    kept = [n for n in range(len(columns)) if n < 5 or any(row[n] for row in body)]
    lines = [columns, ["---"] * 3 + ["---:"] * (len(columns) - 3), *body]
    return "".join("| " + " | ".join(line[n] for n in kept) + " |\n" for line in lines)
