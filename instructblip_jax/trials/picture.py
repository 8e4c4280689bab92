"""The plot of a comparison: scores over cost per sample."""

from collections.abc import Mapping
from pathlib import Path

from instructblip_jax.trials.comparison import Compared
from instructblip_jax.trials.scores import HALVES


def draw(systems: Mapping[str, Compared], path: Path) -> None:
    """Write a PNG with a panel for each group of sets: mean score with its interval over FLOPs per sample; the area of
    a dot shows the trainable parameters. Raises ImportError if matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    groups = [group for group in HALVES if any(group in one.means for one in systems.values())]
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(1.5 + 3.2 * len(groups), 4.2),
        sharex=True,
        sharey=True,
        squeeze=False,
        constrained_layout=True,
    )
    most = max(one.costs.trained for one in systems.values())
    shown = {}
    for axis, group in zip(axes[0], groups, strict=True):
        for n, (name, one) in enumerate(systems.items()):
            score = one.means.get(group)
            if score is None or score.value is None:
                continue
            at, colour = one.costs.flops / 1e9, plt.get_cmap("tab20")(n % 20)
            low, high = (100 * (score.value if end is None else end) for end in (score.low, score.high))
            axis.plot([at, at], [low, high], color=colour, linewidth=1.5)
            area = 25 + 275 * one.costs.trained / most
            axis.scatter([at], [100 * score.value], s=area, color=colour, edgecolor="black", zorder=3)
            (shown[name],) = axis.plot([], [], "o", color=colour, markeredgecolor="black")  # one size in the legend
        axis.set_title(HALVES[group], fontsize=10)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(x=0.15)
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 100)
    axes[0][0].set_ylabel("mean score in %, with 95 % intervals")
    figure.supxlabel("GFLOPs per training sample (area of a dot: trained parameters)", fontsize=10)
    names = [name for name in systems if name in shown]
    figure.legend([shown[name] for name in names], names, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
