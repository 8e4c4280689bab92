"""Instruction tuning: instructblip train --config C --workdir W [--json FILE] [--profile FIRST:LAST]

Resumes from W by itself. Only the trained parameters, the optimizer and the position in the data are saved there.
SIGTERM ends it after the current step, saved, with exit code 143.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from etils import epath

from instructblip_jax import distributed, features, run_flags
from instructblip_jax import mesh as meshes
from instructblip_jax.checkpoint import fingerprint, weights_sha256
from instructblip_jax.config import RunConfig, resolve
from instructblip_jax.data.buckets import Shape, fit
from instructblip_jax.data.builder import open_set, split_of
from instructblip_jax.data.digits.prepare import prepare_missing
from instructblip_jax.data.digits.templates import PLAIN
from instructblip_jax.data.loader import sample_lengths, training_batches
from instructblip_jax.data.mixture import probabilities
from instructblip_jax.data.prompts import training_templates
from instructblip_jax.model import InstructBlip
from instructblip_jax.plan import chips, flops
from instructblip_jax.processors.processor import Processor
from instructblip_jax.systems.trainable import enters_tower
from instructblip_jax.systems.tree import merge
from instructblip_jax.train import log, loop, trace
from instructblip_jax.train.examples import LoggedExamples
from instructblip_jax.train.guard import DivergedError
from instructblip_jax.train.meter import Meter
from instructblip_jax.train.optimizer import optimizer, schedule
from instructblip_jax.train.step import init_state, make_step
from instructblip_jax.train.stop import Stopped
from instructblip_jax.workdir import Workdir

FLAGS = flags.FLAGS
TEMPLATE_SETS = {"instructions": training_templates(), "plain": PLAIN}


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    run_flags.define(argv)
    flags.DEFINE_string("json", None, "Also write losses and weights_sha256 here, for programs.")
    flags.DEFINE_string("profile", None, "FIRST:LAST, steps of which a profiler trace is written to W/profile.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    run_flags.check(args)
    if FLAGS.profile is not None:
        trace.parse(FLAGS.profile)


def check(run: RunConfig, mesh: jax.sharding.Mesh) -> None:
    """Refuse what cannot run before anything is loaded or written. Raises ValueError naming the field."""
    if run.data.templates not in TEMPLATE_SETS:
        raise ValueError(f"config.data.templates is {run.data.templates!r}; it is {' or '.join(TEMPLATE_SETS)}")
    if not run.mixture.sets:
        raise ValueError("config.mixture.sets is empty: name at least one set to train on")
    micro = meshes.batch_shards(mesh) * run.optim.accumulation
    if run.batch_size < 1 or run.batch_size % micro:
        raise ValueError(
            f"config.batch_size {run.batch_size} is not a multiple of {micro} "
            "(mesh.data x mesh.fsdp x optim.accumulation)"
        )
    if run.data.features and enters_tower(run.trainable):
        raise ValueError(f"config.data.features keeps a frozen tower's features; trainable {run.trainable!r} trains it")
    if run.seed < 0:
        raise ValueError(f"config.seed is {run.seed}; it must be at least 0")
    for name in ("log_every", "checkpoint_every", "checkpoints_kept"):
        if getattr(run, name) < 1:
            raise ValueError(f"config.{name} is {getattr(run, name)}; it must be at least 1")
    for name in ("instruction_lengths", "response_lengths"):
        if min(getattr(run.data, name), default=0) < 1:
            raise ValueError(f"config.data.{name} is {getattr(run.data, name)}; at least one length is needed")
    if run.data.window < 1 or run.data.shapes < 0:
        raise ValueError(f"config.data.window {run.data.window} and shapes {run.data.shapes}: at least 1 and 0")
    if (run.steps < 1) == (run.epochs <= 0):
        raise ValueError(f"config.steps is {run.steps} and epochs {run.epochs}; one must be positive, the other 0")


def run(args: Sequence[str]) -> None:
    """Train, from the last checkpoint in W if there is one."""
    begun = time.perf_counter()
    config = resolve(FLAGS.config)
    distributed.start()

    # 1. What can be refused is refused before anything is written: the mesh, the fields, the model, the workdir.
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check(config, mesh)
    workdir = Workdir(FLAGS.workdir)
    workdir.check(config)
    finished = workdir.read_json("train.json")
    if finished is not None:
        _report(workdir, finished, "already trained")
        return
    model = InstructBlip.from_pretrained(
        config.model,
        mesh,
        config.dtype,
        trainable=config.trainable,
        instruct_qformer=config.instruct_qformer,
        layout=config.layout,
        remat=config.remat,
        int8=config.int8,
        image_size=config.image_size,
    )
    processor = Processor.from_pretrained(model.directory, image_size=config.image_size)

    # 2. Data: prepared sets, mixed.
    prepare_missing(config.data.directory, config.mixture.sets)
    sources = {name: open_set(config.data.directory, *split_of(name, "train")) for name in config.mixture.sets}
    sizes = {name: len(source) for name, source in sources.items()}
    mixture = probabilities(
        sizes, exponent=config.mixture.exponent, weights=config.mixture.weights, caps=config.mixture.caps
    )
    steps = config.steps or math.ceil(config.epochs * sum(sizes[name] for name in mixture) / config.batch_size)
    templates = TEMPLATE_SETS[config.data.templates]
    shapes: list[Shape] = []
    if config.data.shapes:
        lengths = sample_lengths(sources, mixture, processor, templates, seed=config.seed)
        longest = (max(config.data.instruction_lengths), max(config.data.response_lengths))
        shapes = fit(lengths, longest, config.data.shapes)
    own = meshes.local_rows(mesh, config.batch_size)
    make_batches = partial(
        training_batches,
        {name: sources[name] for name in mixture},
        mixture,
        processor,
        templates,
        batch_size=config.batch_size,
        instruction_lengths=config.data.instruction_lengths,
        response_lengths=config.data.response_lengths,
        seed=config.seed,
        shapes=shapes,
        window=config.data.window,
        blank_image=config.data.blank_image,
        own=own,
    )
    batches = make_batches()

    # The first batch shows what no field does: texts longer than the static lengths, a set that cannot be read.
    position = batches.get_state()
    next(batches)
    batches.set_state(position)
    if config.data.features:
        cached = features.prepare(
            model,
            processor,
            {name: sources[name] for name in mixture},
            config.data.features,
            batch_size=config.batch_size,
            blank_image=config.data.blank_image,
        )
        batches = make_batches(features=cached)

    # 3. The workdir is this run's from here on. State: fresh, or the last checkpoint's with its data position.
    distributed.barrier("checked")  # by all, before the first one writes
    workdir.claim(config)
    checkpoints = workdir.checkpoints(keep=config.checkpoints_kept)
    start = checkpoints.newest() or 0
    tx = optimizer(config.optim, steps)
    state = meshes.pin(mesh, init_state(model.train, tx, sets=len(mixture)))
    source = fingerprint(model.directory)
    if start:
        state, position = checkpoints.restore(start, state, source)
        batches.set_state(position)
    data: loop.Data = batches
    if config.log_examples:
        process = jax.process_index()
        data = LoggedExamples(data, workdir.examples, step=start, process=process, rows=own)
    _describe(config, model, mixture, start)
    if shapes and distributed.is_writer():
        print("text shapes: " + ", ".join(f"{a} + {b}" for a, b in shapes), flush=True)

    # 4. The loop.
    step_fn = make_step(
        lambda train, frozen: merge(model.graph, train, frozen),
        tx,
        seed=config.seed,
        accumulation=config.optim.accumulation,
        spike_factor=config.optim.spike_factor,
        rate=schedule(config.optim, steps),
        compiler_options=model.compiler_options,
    )
    metrics_log = log.MetricsLog(workdir.metrics, workdir.path / "tensorboard", step=start)
    traced = FLAGS.profile and distributed.is_writer()
    chip = chips.chip_of(mesh.devices.flat[0].device_kind)
    meter = Meter(
        begun=begun,
        sets=list(mixture),
        flops_per_batch=lambda shapes: flops.batch(model.config, shapes, config.trainable),
        peak_flops=chip.bf16 * mesh.size if chip else None,
    )
    with jax.set_mesh(mesh), meter:
        job = loop.Job(
            start=start,
            steps=steps,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            save=lambda step, state, position: checkpoints.save(step, state, position, source),
            metrics_log=metrics_log,
            meter=meter,
            trace=trace.Trace(trace.parse(FLAGS.profile), workdir.path / "profile") if traced else None,
        )
        try:
            state = loop.run(
                state, model.frozen, step_fn, data, lambda x: meshes.put_rows(mesh, x, own, config.batch_size), job
            )
        except Stopped as stopped:
            checkpoints.close()
            if distributed.is_writer():
                log.tell(str(stopped))
            sys.exit(143)
        except DivergedError as error:
            checkpoints.close()
            if distributed.is_writer():
                path = workdir.write_json("diverged.json", error.record)
                raise DivergedError(f"{error} (the step's examples: {path})", error.record) from None
            raise
        except Exception:
            # What one process of a job meets alone must not make it wait for the others, who wait for it.
            if jax.process_count() == 1:
                checkpoints.close()
            raise
        meter.enter("saving")
        checkpoints.close()

    # 5. What programs read.
    result = {
        "steps": steps,
        "losses": [entry["loss"] for entry in metrics_log.entries],
        "weights_sha256": weights_sha256(state["train"]),
        "goodput": meter.shares(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    if distributed.is_writer():
        workdir.write_json("train.json", result)
    print(meter.summary())
    _report(workdir, result, "trained")


def _report(workdir: Workdir, result: dict[str, Any], what: str) -> None:
    if FLAGS.json and distributed.is_writer():
        epath.Path(FLAGS.json).write_text(json.dumps(result, indent=2) + "\n")
    print(f"{what} to step {result['steps']} in {result['seconds']} s; checkpoints in {workdir.path / 'checkpoints'}")


def _describe(config: RunConfig, model: InstructBlip, mixture: dict[str, float], start: int) -> None:
    trained = sum(x.size for x in model.train.values())
    frozen = sum(x.size for x in model.frozen.values())
    mesh = " x ".join(f"{name} {size}" for name, size in model.mesh.shape.items())
    where = f"from step {start}" if start else "from the start"
    print(f"{Path(config.model).name}: {trained:,} trained and {frozen:,} frozen parameters; mesh {mesh}; {where}")
    print("mixture: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in mixture.items()), flush=True)
