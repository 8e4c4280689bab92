"""Curves of several runs over numbers of examples: python benchmarks/shot_curves.py OUT.png NAME=W,W,W [NAME=W ...]

Each W is the workdir of an evaluated run with config.evaluation.shots; the Ws of a NAME differ in their seed. Prints a
Markdown table and draws it: means over runs, and from the lowest to the highest end of the runs' own 95 % intervals
(bootstrap over supports and questions), for the prompt itself, with wrong examples and with blanked pictures.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CURVES = {"": "-", "wrong": "--", "blank": ":"}
TITLES = {"": "the prompt itself", "wrong": "wrong examples", "blank": "pictures blanked"}


def points(runs: Sequence[Mapping[str, Any]], control: str) -> dict[int, tuple[float, float, float]]:
    """Number of examples -> the mean of the runs in percent, and the ends of their intervals."""
    found = {}
    for shots in sorted(runs[0], key=int):
        own = [run[shots]["controls"].get(control) if control else run[shots] for run in runs if shots in run]
        known = [one for one in own if one and one["value"] is not None]
        if known:
            values = [100 * one["value"] for one in known]
            low, high = 100 * min(one["low"] for one in known), 100 * max(one["high"] for one in known)
            found[int(shots)] = (statistics.fmean(values), low, high)
    return found


def table(systems: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """A Markdown table: a line for each system, set and number of examples."""
    lines = ["| system | set | examples | " + " | ".join(TITLES.values()) + " |", "|---|---|---:|---:|---:|---:|"]
    for name, sets in systems.items():
        for own, runs in sets.items():
            curves = {control: points(runs, control) for control in CURVES}
            for shots in curves[""]:
                cells = [_cell(curves[control].get(shots)) for control in CURVES]
                lines.append(f"| {name} | `{own}` | {shots} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(point: tuple[float, float, float] | None) -> str:
    return "" if point is None else f"{point[0]:.1f} ({point[1]:.1f} to {point[2]:.1f})"


def draw(systems: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Write a PNG with a panel for each set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = list(dict.fromkeys(own for found in systems.values() for own in found))
    figure, axes = plt.subplots(
        1, len(sets), figsize=(5 * len(sets), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, own in zip(axes[0], sets, strict=True):
        for n, (name, found) in enumerate(systems.items()):
            for control, style in CURVES.items():
                if curve := points(found.get(own, ()), control) if own in found else {}:
                    title = name if not control else f"{name}, {TITLES[control]}"
                    axis.plot(
                        list(curve),
                        [x[0] for x in curve.values()],
                        style,
                        marker="o",
                        markersize=3,
                        color=f"C{n}",
                        label=title,
                    )
                    low, high = [x[1] for x in curve.values()], [x[2] for x in curve.values()]
                    axis.fill_between(list(curve), low, high, color=f"C{n}", alpha=0.12, linewidth=0)
        axis.set_title(own)
        axis.set_xlabel("examples in the prompt")
    axes[0][0].set_ylabel("exact match, percent")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def read(given: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """NAME=W,W -> name -> set -> "shots" of each run. Raises ValueError for a workdir without curves."""
    systems: dict[str, dict[str, list[Any]]] = {}
    for text in given:
        name, _, workdirs = text.partition("=")
        for workdir in workdirs.split(","):
            path = Path(workdir) / "evaluation.json"
            found = {own: one["shots"] for own, one in json.loads(path.read_text())["sets"].items() if "shots" in one}
            if not found:
                raise ValueError(f"{path}: has no scores over numbers of examples; set config.evaluation.shots")
            for own, shots in found.items():
                systems.setdefault(name, {}).setdefault(own, []).append(shots)
    return systems


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=W,W,W")
    args = parser.parse_args()
    systems = read(args.runs)
    print(table(systems))
    draw(systems, args.out)


if __name__ == "__main__":
    main()
