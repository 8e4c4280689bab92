"""Runs `instructblip ablate`."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath

from instructblip_jax import files
from instructblip_jax.command_lines import run_flags
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.trials import series
from instructblip_jax.trials.configurations import names_in
from instructblip_jax.trials.series import Trial

FLAGS = flags.FLAGS
COLUMNS = {
    "held_in_mean": "held-in",
    "held_out_mean": "held-out",
    "held_out_mean_blind": "held-out, image blanked",
}

Summary = dict[str, dict[str, dict[str, Any]]]
"""variant -> column -> {mean, deviation (sample standard deviation; 0 for one seed), seeds}"""


def variants(path: str) -> list[str]:
    """The names of a configuration's variants, "" first. Raises FileNotFoundError, or ValueError if it has none."""
    found = names_in(path, "VARIANTS")
    if not found:
        raise ValueError(f"{path}: has no VARIANTS, so there is nothing to compare")
    return found


def summary(results: dict[str, list[dict[str, Any]]]) -> Summary:
    """The means over each variant's runs, from evaluation.json; None if the suite has no such sets."""
    table: Summary = {}
    for name, runs in results.items():
        table[name] = {}
        for column in COLUMNS:
            values = [run[column] for run in runs if run[column] is not None]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            mean = statistics.fmean(values) if values else None
            table[name][column] = {"mean": mean, "deviation": deviation, "seeds": len(runs)}
    return table


def _cell(entry: dict[str, Any]) -> str:
    return "–" if entry["mean"] is None else f"{100 * entry['mean']:.1f} ± {100 * entry['deviation']:.1f}"


def markdown(table: Summary) -> str:
    """The comparison as a Markdown table, in percent."""
    lines = ["| run | " + " | ".join(COLUMNS.values()) + " | seeds |", "|---|" + "---:|" * (len(COLUMNS) + 1)]
    for name, row in table.items():
        cells = [_cell(row[column]) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['held_in_mean']['seeds']} |")
    return "\n".join(lines) + "\n"


def plot(table: Summary, path: epath.Path) -> None:
    """Write a PNG with a bar for each variant and column, and the standard deviation over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1.6 + 1.6 * len(table), 4))
    width = 0.8 / len(COLUMNS)
    for n, (column, label) in enumerate(COLUMNS.items()):
        positions = [i + (n - (len(COLUMNS) - 1) / 2) * width for i in range(len(table))]
        heights = [100 * (row[column]["mean"] or 0.0) for row in table.values()]
        errors = [100 * row[column]["deviation"] for row in table.values()]
        axes.bar(positions, heights, width, yerr=errors, capsize=3, label=label)
    axes.set_xticks(range(len(table)), [name.replace("_", "\n") for name in table], fontsize=8)
    axes.set_ylabel("mean score over sets, %")
    axes.set_ylim(0, 100)
    axes.legend(fontsize=8)
    figure.tight_layout()
    with path.open("wb") as file:
        figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


def run(args: Sequence[str]) -> None:
    """Train and evaluate what is missing, then write the comparison."""
    root, config = Workdir(FLAGS.workdir), run_flags.found(FLAGS.config)
    trials = [
        Trial(variant or Path(config).stem, f"{config}:{variant}" if variant else config, seed, root.path)
        for variant in variants(config)
        for seed in FLAGS.seeds
    ]
    results = series.run(trials, args)
    table = summary(results)
    written = [root.write_json("ablations.json", table), root.write_text("ablations.md", markdown(table))]
    picture = root.path / "ablations.png"
    plot(table, picture)
    if FLAGS.json:
        files.write_json(FLAGS.json, table)
    print(markdown(table))
    print("\n".join(map(str, [*written, picture])))
