"""`instructblip ablate` behind its command line."""

import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath

from instructblip_jax import files
from instructblip_jax.command_lines import run_flags
from instructblip_jax.run.workdir import Workdir

FLAGS = flags.FLAGS
COLUMNS = {
    "held_in_mean": "held-in",
    "held_out_mean": "held-out",
    "held_out_mean_blind": "held-out, image blanked",
}

Summary = dict[str, dict[str, dict[str, Any]]]
"""variant -> column -> {mean, deviation (of the sample; 0 for one seed), seeds}"""


def variants(path: str) -> list[str]:
    """The names of a configuration's variants, "" first. Raises FileNotFoundError, or ValueError if it has none."""
    spec = importlib.util.spec_from_file_location("ablated_config", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such configuration file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not getattr(module, "VARIANTS", None):
        raise ValueError(f"{path}: has no VARIANTS, so there is nothing to compare")
    return list(module.VARIANTS)


def summary(results: dict[str, list[dict[str, Any]]]) -> Summary:
    """The means over the runs of each variant, from evaluation.json; None if the suite has no such sets."""
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
    """Write a PNG with a bar for each variant and column, and the deviation over the seeds."""
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


def _evaluated(workdir: epath.Path) -> bool:
    """True if the last step of the run was evaluated."""
    evaluation, finished = (workdir / name for name in ("evaluation.json", "train.json"))
    return (
        evaluation.exists() and json.loads(evaluation.read_text())["step"] == json.loads(finished.read_text())["steps"]
    )


def run(args: Sequence[str]) -> None:
    """Train and evaluate what is missing, then write the comparison."""
    root = Workdir(FLAGS.workdir)
    results: dict[str, list[dict[str, Any]]] = {}
    path = run_flags.found(FLAGS.config)
    for variant in variants(path):
        name = variant or Path(path).stem
        for seed in FLAGS.seeds:
            workdir = root.path / name / f"seed-{seed}"
            evaluation = workdir / "evaluation.json"
            print(f"{name}, seed {seed}: {workdir}", flush=True)
            config = f"--config={path}:{variant}" if variant else f"--config={path}"
            for command in ("train", "evaluate"):
                # `train` itself returns at once from a finished run, continues one that is to have more steps, and
                # refuses one that was made with other overrides.
                if command == "evaluate" and _evaluated(workdir):
                    continue
                flags_ = [config, f"--config.seed={seed}", f"--workdir={workdir}", *args]
                done = subprocess.run([sys.executable, "-m", "instructblip_jax", command, *flags_], check=False)
                if done.returncode:
                    raise ValueError(f"{command} of {name}, seed {seed} failed (see above); the finished runs are kept")
            results.setdefault(name, []).append(json.loads(evaluation.read_text()))
    table = summary(results)
    written = [root.write_json("ablations.json", table), root.write_text("ablations.md", markdown(table))]
    picture = root.path / "ablations.png"
    plot(table, picture)
    if FLAGS.json:
        files.write_json(FLAGS.json, table)
    print(markdown(table))
    print("\n".join(map(str, [*written, picture])))
