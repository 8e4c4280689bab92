"""Runs `instructblip plan`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from instructblip_jax import families, files
from instructblip_jax.plan import chips, compiled, report, sweep, table, tracing
from instructblip_jax.plan.compiled import DoesNotFit, Group, Lengths, Setting
from instructblip_jax.plan.report import Generation, Plan
from instructblip_jax.recipes.public import NEW, PUBLIC
from instructblip_jax.run.config import GroupConfig, RunConfig, resolve
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.protocol import Shows, SystemConfig
from instructblip_jax.systems.trainable import prefixes

FLAGS = flags.FLAGS


def model_config(name: str) -> SystemConfig:
    """The sizes of a model directory, a public model, or a model assembled from these. Raises ValueError for another
    hub id."""
    if (Path(name) / "config.json").is_file():
        return families.read_config(Path(name))
    known = PUBLIC | NEW
    if name not in known:
        raise ValueError(
            f"config.model {name!r} is not a directory with a config.json; the hub models that plan knows are "
            f"{', '.join(PUBLIC)}"
        )
    return known[name]


def bucket(wanted: int, lengths: Sequence[int]) -> int:
    """The shortest static length for this many tokens, or else the longest one."""
    return min((n for n in lengths if n >= wanted), default=max(lengths))


def settings(run: RunConfig, lengths: Sequence[int], batch_size: int | None = None) -> tuple[Setting, Setting]:
    """The setting to time, at the static lengths for ``lengths`` tokens of instruction and response; and the setting
    with the run's largest shape, which decides if the run fits."""
    model = model_config(run.model).configured(**run.system_options())
    texts = (run.data.instruction_lengths, run.data.response_lengths)
    kinds = ("image",) * max(run.data.pictures, default=1)
    if isinstance(model, Shows):
        kinds = model.shows(prefixes(run.trainable, model.trainable_sets))
    instruction, response = (bucket(n, static) for n, static in zip(lengths, texts, strict=True))
    timed = Setting(
        model=model,
        rows=batch_size or run.batch_size,
        lengths=Lengths(instruction, response, kinds),
        mesh=dataclasses.astuple(run.mesh),
        layout=Layout(**run.layout),
        remat=run.remat,
        scan_layers=run.scan_layers,
        int8=run.int8,
        dtype=run.dtype,
        trainable=run.trainable,
        optim=run.optim,
        groups=tuple(_group(run, name, group) for name, group in run.mixture.groups.items()),
    )
    return timed, dataclasses.replace(timed, lengths=Lengths(max(texts[0]), max(texts[1]), kinds))


def _group(run: RunConfig, name: str, group: GroupConfig) -> Group:
    """A group's batch at its largest shape."""
    prompts, responses = (
        own or of_all
        for own, of_all in (
            (group.instruction_lengths, run.data.instruction_lengths),
            (group.response_lengths, run.data.response_lengths),
        )
    )
    kinds = ("image",) * max(group.pictures or run.data.pictures, default=1)
    return Group(name, group.batch_size, Lengths(max(prompts), max(responses), kinds), group.weight)


def run(args: Sequence[str]) -> None:
    """Plan, print and write. Raises ValueError with the verdict if the run does not fit."""
    config = resolve(FLAGS.config)
    topology = chips.parse(FLAGS.topology)
    timed, longest = settings(config, [int(n) for n in FLAGS.lengths], FLAGS.batch_size)
    if config.steps < 1:
        raise ValueError(f"config.steps is {config.steps}; it must be at least 1")
    if timed.groups and (FLAGS.sweep or FLAGS.batch_size):
        raise ValueError(
            "config.mixture.groups: a step of several batches cannot be planned with --sweep or --batch_size"
        )
    # Nothing runs here, so this machine's accelerator is left alone.
    jax.config.update("jax_platforms", "cpu")
    devices = compiled.devices(topology)
    name = Path(config.model).name

    _report(f"compiling the train step for {topology.name}")
    plan = report.plan(timed, topology, devices)
    print(table.title(plan, name), table.memory(plan), sep="\n\n")
    if plan.fits:
        print("", table.sent(plan), "", table.speed(plan, config.steps), "", table.losses(plan), sep="\n")
    out = plan.as_json() | {"steps": config.steps}
    bound = plan.roofline.bound if plan.roofline else 0.0
    out["hours_for_run"] = table.hours(bound, config.steps)
    if plan.estimate is not None:
        out["hours_for_run_likely"] = table.hours(plan.estimate.likely, config.steps)

    largest = plan
    if longest != timed and plan.fits and not timed.groups:  # groups are planned at their largest shapes
        _report(f"compiling the largest shape, {longest.lengths.prompt} + {longest.lengths.response} tokens")
        largest = report.plan(longest, topology, devices)
        out |= {"largest_shape": largest.as_json()}
    out |= {"fits": largest.fits, "peak_bytes_per_chip": max(plan.peak, largest.peak)}

    verdict = table.verdict(largest, longest.lengths)
    if plan.fits and tracing.answers(tracing.describe(timed.model)):
        _report("compiling generation")
        made = _generation(config, timed, topology, devices)
        if made is not None:
            print("", table.answering(made), sep="\n")
            out |= {"generation": made.as_json()}
        if made is None or not made.fits:
            verdict += f"; answering {config.evaluation.batch_size} at a time does not fit"
    tried: list[Plan] = []
    if FLAGS.sweep:
        tried, out["sweep"] = _sweep(timed, topology, devices)
    if FLAGS.json:
        files.write_json(FLAGS.json, out)
    if not largest.fits:
        print("", table.advice(largest), sep="\n")
        if not (tried and tried[0].fits):
            sys.stdout.flush()  # the error comes last even if both streams go to one file
            raise ValueError(verdict)
        verdict += f"; the first row of the sweep does, at {timed.lengths.prompt} + {timed.lengths.response} tokens"
    print("", verdict, sep="\n")


def _generation(run: RunConfig, timed: Setting, topology: chips.Topology, devices: list[Any]) -> Generation | None:
    setting = dataclasses.replace(timed, rows=run.evaluation.batch_size)
    try:
        return report.generation(setting, topology, devices, max_new_tokens=run.evaluation.max_new_tokens)
    except DoesNotFit as error:
        print(f"\nAnswering {setting.rows} instructions at a time does not fit: {error}")
        return None


def _sweep(timed: Setting, topology: chips.Topology, devices: list[Any]) -> tuple[list[Plan], dict[str, Any]]:
    """The settings that were tried, best first, and their entry in --json."""
    plans = sweep.fastest(timed, topology, devices, lambda found: tqdm(found, desc="sweep", unit="program"))
    print("", table.compared(plans), sep="\n")
    if not plans or not plans[0].fits:
        print("\nNo setting fits: use a larger slice, or a smaller batch")
        return plans, {"tried": [plan.as_json() for plan in plans]}
    _report("looking for the largest batch")
    largest = sweep.largest_batch(plans[0], devices)
    print(
        f"\nFastest for batch {timed.rows}: the first row. The largest batch that it holds is {largest.setting.rows}."
    )
    print("", table.compared([largest]), sep="\n")
    return plans, {"tried": [plan.as_json() for plan in plans], "largest_batch": largest.as_json()}


def _report(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)
