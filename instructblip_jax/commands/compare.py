"""Runs `instructblip compare`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from instructblip_jax import files
from instructblip_jax.command_lines import run_flags
from instructblip_jax.run.check import with_system
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.trials import comparison, configurations, costs, picture, scores, series, shared
from instructblip_jax.trials.comparison import Compared
from instructblip_jax.trials.series import Trial

FLAGS = flags.FLAGS


def run(args: Sequence[str]) -> None:
    """Train and evaluate what is missing, then write the comparison."""
    # The runs are separate processes and use the accelerator; the computations here are small.
    jax.config.update("jax_platforms", "cpu")
    systems = configurations.systems([run_flags.found(path) for path in FLAGS.config])
    runs = {name: with_system(configurations.run_of(config))[0] for name, config in systems.items()}
    outlines = {name: costs.outline(run) for name, run in runs.items()}
    letters = shared.letters(runs, outlines)
    for line in _apart(letters):
        print(f"note: {line}", flush=True)

    root = Workdir(FLAGS.workdir)
    # Seed by seed, so that each seed completes a table.
    trials = [Trial(name, systems[name], seed, root.path) for seed in FLAGS.seeds for name in systems]
    evaluations = series.run(trials, args)
    table: dict[str, Compared] = {}
    for name, config in systems.items():
        workdirs = [Workdir(str(trial.workdir)) for trial in trials if trial.name == name]
        sets = scores.of_runs(workdirs, evaluations[name])
        table[name] = Compared(
            config=config,
            seeds=tuple(FLAGS.seeds),
            costs=costs.of_runs(workdirs, outlines[name]),
            shared=letters[name],
            lacks=comparison.lacks(outlines[name], sets),
            sets=sets,
        )
    _report(root, table)


def _apart(letters: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A line for each role whose frozen part is not the same in all systems."""
    lines = []
    for role in shared.ROLES:
        found: dict[str, list[str]] = {}
        for name, own in letters.items():
            if own[role]:
                found.setdefault(own[role], []).append(name)
        if len(found) > 1:
            shown = "; ".join(f"{letter} in {', '.join(names)}" for letter, names in found.items())
            lines.append(f"{role}: not the same in all systems: {shown}")
    return lines


def _report(root: Workdir, table: Mapping[str, Compared]) -> None:
    """Write and print the table; draw the plot if W is local and matplotlib is installed (the demo extra)."""
    markdown = comparison.markdown(table)
    content: dict[str, Any] = {"systems": {name: one.as_json() for name, one in table.items()}}
    written = [root.write_json("compare.json", content), root.write_text("compare.md", markdown)]
    if "://" not in str(root.path):
        try:
            picture.draw(table, Path(root.path) / "compare.png")
            written.append(root.path / "compare.png")
        except ImportError:
            print("note: no plot: matplotlib is not installed; pip install -e '.[demo]'")
    if FLAGS.json:
        files.write_json(FLAGS.json, content)
    print(f"\n{markdown}")
    print("\n".join(map(str, written)))
