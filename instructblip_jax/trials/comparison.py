"""The comparison of several systems: the figures of each, as JSON and as Markdown tables."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructblip_jax.plan import tracing
from instructblip_jax.systems.protocol import LANGUAGE, TOWER
from instructblip_jax.trials.costs import Costs
from instructblip_jax.trials.scores import HALVES, Score, means

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
SILENT, APART, UNASKED = (
    "writes no text",
    "does not compare pictures with texts",
    "its configuration names no such set",
)
PARTIAL = "mean over its own sets, which are not all of this column"


@dataclasses.dataclass(frozen=True)
class Compared:
    """The figures of one system.

    Attributes:
      config: FILE.py or FILE.py:VARIANT.
      seeds: the seeds of its runs.
      shared: role -> letter of the frozen part; see `shared.letters`.
      lacks: group of sets -> why the system has no score there.
      sets: set -> score.
    """

    config: str
    seeds: tuple[str, ...]
    costs: Costs
    shared: Mapping[str, str]
    lacks: Mapping[str, str]
    sets: Mapping[str, Score]

    @property
    def means(self) -> dict[str, Score]:
        """Group -> the mean score over its sets."""
        return means(self.sets)

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            "config": self.config,
            "seeds": list(map(int, self.seeds)),
            "trained_parameters": self.costs.trained,
            "samples": self.costs.samples,
            "flops_per_sample": self.costs.flops,
            "seconds_per_sample": self.costs.seconds,
            "shared": dict(self.shared),
            "means": {group: score.as_json() for group, score in self.means.items()},
            "sets": {name: score.as_json() for name, score in self.sets.items()},
            "lacks": dict(self.lacks),
        }


def lacks(system: tracing.Outline, sets: Mapping[str, Score]) -> dict[str, str]:
    """Group without a score -> why."""
    writes, compares = tracing.answers(system), tracing.has(system, "embed_media")
    there = {score.group for score in sets.values()}
    able = dict.fromkeys(HALVES, "" if writes else SILENT) | {"retrieval": "" if compares else APART}
    return {group: able[group] or UNASKED for group in HALVES if group not in there}


def markdown(systems: Mapping[str, Compared]) -> str:
    """The comparison: a table with one row per system, its notes, and one table of scores for each group of sets."""
    groups = [group for group in HALVES if any(group in one.means for one in systems.values())]
    return "\n".join([_summary(systems, groups), *(_sets(systems, group) for group in groups)])


def _summary(systems: Mapping[str, Compared], groups: Sequence[str]) -> str:
    sizes = {group: _names(systems.values(), group) for group in groups}
    columns = ["system", "trained parameters", TOWER, "language model", "samples", "GFLOPs a sample", "ms a sample"]
    columns += [f"{HALVES[group]} ({len(sizes[group])})" for group in groups]
    notes: list[str] = []
    body = []
    for name, one in systems.items():
        costs, found = one.costs, one.means
        took = "" if costs.seconds is None else f"{1000 * costs.seconds:.3g}"
        line = [name, f"{costs.trained:,}", one.shared[TOWER], one.shared[LANGUAGE]]
        line += [f"{costs.samples:,}", f"{costs.flops / 1e9:.3g}", took]
        for group in groups:
            if group not in found:
                line.append(f"—{_mark(one.lacks.get(group, UNASKED), notes)}")
                continue
            whole = len(_names([one], group)) == len(sizes[group])
            line.append(_cell(found[group]) + ("" if whole else _mark(PARTIAL, notes)))
        body.append(line)
    table = _table(columns, body, left=(0, 2, 3))
    return table + "".join(f"\n{MARKS[n]} {note}." for n, note in enumerate(notes)) + ("\n" if notes else "")


def _mark(note: str, notes: list[str]) -> str:
    """The mark of a note; a new note is added to ``notes``."""
    if note not in notes:
        notes.append(note)
    return MARKS[notes.index(note)]


def _names(systems: Iterable[Compared], group: str) -> set[str]:
    """The sets of a group, without their numbers of examples."""
    found = (name for one in systems for name, score in one.sets.items() if score.group == group)
    return {name.rpartition("@")[0] or name for name in found}


def _sets(systems: Mapping[str, Compared], group: str) -> str:
    """The scores of each set of a group, with one column for each system that has any."""
    shown = {name: one for name, one in systems.items() if any(s.group == group for s in one.sets.values())}
    rows: dict[str, str] = {}
    for one in shown.values():
        rows |= {name: score.metric for name, score in one.sets.items() if score.group == group}
    body = []
    for name, metric in rows.items():
        scores = [one.sets.get(name) for one in shown.values()]
        body.append([name, metric, *(_cell(s) if s is not None and s.group == group else "—" for s in scores)])
    return f"{HALVES[group].capitalize()}\n\n" + _table(["set", "metric", *shown], body, left=(0, 1))


def _cell(score: Score) -> str:
    if score.value is None:
        return "—"
    span = "" if score.low is None or score.high is None else f" ({100 * score.low:.1f} to {100 * score.high:.1f})"
    return f"{100 * score.value:.1f}{span}"


def _table(columns: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """A Markdown table without the columns that are empty in all rows. ``left``: the left-aligned columns, which hold
    text."""
    kept = [n for n in range(len(columns)) if any(line[n] for line in body)]
    lines = [columns, ["---" if n in left else "---:" for n in range(len(columns))], *body]
    return "".join("| " + " | ".join(line[n] for n in kept) + " |\n" for line in lines)
