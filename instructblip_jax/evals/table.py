"""The table of an evaluated suite, for people and for programs."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One set's result: ``value`` and, with the picture blanked, ``blind``, both in 0..1, over ``count`` records."""

    split: str
    metric: str
    value: float
    count: int
    blind: float


def means(rows: Mapping[str, Row]) -> dict[str, float | None]:
    """The plain means over held-in and over held-out sets; None where there is no such set (JSON knows no nan)."""

    def mean(split: str, field: str) -> float | None:
        values = [getattr(row, field) for row in rows.values() if row.split == split]
        return statistics.fmean(values) if values else None

    return {
        "held_in_mean": mean("held_in", "value"),
        "held_in_mean_blind": mean("held_in", "blind"),
        "held_out_mean": mean("held_out", "value"),
        "held_out_mean_blind": mean("held_out", "blind"),
    }


def as_dict(rows: Mapping[str, Row]) -> dict[str, Any]:
    """What `evaluate --json` holds of the rows."""
    return {"sets": {name: dataclasses.asdict(row) for name, row in rows.items()}, **means(rows)}


def markdown(rows: Mapping[str, Row]) -> str:
    """A Markdown table in percent: held-in sets, their mean, held-out sets, their mean."""
    lines = ["| | set | metric | records | score | image blanked |", "|---|---|---|---:|---:|---:|"]
    overall = means(rows)
    for split, title in (("held_in", "held-in"), ("held_out", "held-out")):
        for name, row in rows.items():
            if row.split == split:
                cells = f"| {title} | {name} | {row.metric} | {row.count} "
                lines.append(f"{cells}| {100 * row.value:.1f} | {100 * row.blind:.1f} |")
        score, blind = overall[f"{split}_mean"], overall[f"{split}_mean_blind"]
        if score is not None and blind is not None:
            lines.append(f"| **{title}** | **mean** | | | **{100 * score:.1f}** | **{100 * blind:.1f}** |")
    return "\n".join(lines) + "\n"
