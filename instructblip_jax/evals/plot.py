"""Plots a suite's scores with their intervals, the paper's results, and the scores with blanked images."""

from collections.abc import Mapping
from pathlib import Path

from instructblip_jax.evals.table import SetResult

COLOURS = {"held_in": "tab:blue", "held_out": "tab:orange"}
MARKS = {"the paper's score": ("D", 5), "pictures blanked": ("|", 11)}
"""Additional marks of a set -> their shape and size."""


def draw(rows: Mapping[str, SetResult], path: Path) -> None:
    """Write the plot to ``path`` as PNG. Raises ImportError if matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {name: row for name, row in rows.items() if row.value is not None}
    metrics = list(dict.fromkeys(row.metric for row in shown.values()))
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.32 * len(shown)), layout="constrained")
    for n, row in enumerate(reversed(shown.values())):
        value = 100 * row.value  # type: ignore[operator]
        low, high = (100 * end for end in row.interval) if row.interval else (value, value)
        axis.barh(n, value, color=COLOURS[row.split], alpha=0.6, height=0.7, label=row.split.replace("_", "-"))
        if row.interval:
            axis.plot([low, high], [n, n], color="black", linewidth=1.2, label="95 % interval")
        others = {label: other for label, other in zip(MARKS, (row.paper, row.blind), strict=True) if other is not None}
        for label, other in others.items():
            mark, size = MARKS[label]
            axis.plot(100 * other, n, mark, color="black", markersize=size, label=label)
        end = max(high, value, *(100 * other for other in others.values()))
        axis.text(end + 2, n, f"{value:.1f}", va="center", fontsize=8)
    named = [name if len(metrics) == 1 else f"{name} ({row.metric})" for name, row in reversed(shown.items())]
    axis.set_yticks(range(len(shown)), named, fontsize=8)
    axis.set_xlabel(f"{metrics[0] if len(metrics) == 1 else 'score'} x 100")
    axis.margins(x=0.1)
    drawn, names = axis.get_legend_handles_labels()
    once = dict(zip(reversed(names), reversed(drawn), strict=True))
    figure.legend(once.values(), once.keys(), fontsize=8, loc="outside lower center", ncols=len(once))
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def draw_shots(rows: Mapping[str, SetResult], path: Path) -> None:
    """Write the curves of scores over numbers of examples to ``path`` as PNG: one per set, with its intervals, and
    dashed lines for its controls. Raises ImportError if matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    for n, (name, row) in enumerate(rows.items()):
        curves = {f"{name} ({row.metric})": ("-", row.shots)}
        for control, style in (("wrong", "--"), ("blank", ":")):
            own = {k: x["controls"][control] for k, x in row.shots.items() if control in x.get("controls", {})}
            curves[f"{name}, {control}"] = (style, own)
        for title, (style, found) in curves.items():
            known = {int(shots): one for shots, one in found.items() if one["value"] is not None}
            if known:
                values = [100 * one["value"] for one in known.values()]
                axis.plot(list(known), values, style, marker="o", markersize=3, color=f"C{n}", label=title)
                spans = [(one["low"], one["high"]) for one in known.values() if one["low"] is not None]
                if style == "-" and len(spans) == len(known):
                    low, high = ([100 * end for end in ends] for ends in zip(*spans, strict=True))
                    axis.fill_between(list(known), low, high, color=f"C{n}", alpha=0.15, linewidth=0)
    axis.set_xticks(sorted({int(shots) for row in rows.values() for shots in row.shots}))
    axis.set_xlabel("examples in the prompt")
    axis.set_ylabel("score x 100, with 95 % intervals")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
