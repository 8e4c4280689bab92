"""`instructblip train` behind its command line: the run, from its configuration to its last checkpoint."""

import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import optax
from absl import flags
from etils import epath
from jax.sharding import Mesh

from instructblip_jax import distributed, validation
from instructblip_jax import mesh as meshes
from instructblip_jax.command_lines.train import traced
from instructblip_jax.data.buckets import Shape, fit
from instructblip_jax.data.collate import grid
from instructblip_jax.data.loader import sample_lengths, training_batches
from instructblip_jax.data.mixture import probabilities
from instructblip_jax.data.prepared import Joined, Source, is_prepared, open_set, split_of
from instructblip_jax.datasets.digits.prepare import prepare_missing
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.digits.templates import PLAIN
from instructblip_jax.datasets.prompts import training_templates
from instructblip_jax.features import compute
from instructblip_jax.model import InstructBlip
from instructblip_jax.plan import chips, flops
from instructblip_jax.processors.instructblip import Processor
from instructblip_jax.run.checkpoint import fingerprint, weights_sha256
from instructblip_jax.run.config import RunConfig, resolve
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.systems.build import merge
from instructblip_jax.systems.trainable import enters_tower
from instructblip_jax.train import log, loop, trace
from instructblip_jax.train.examples import LoggedExamples
from instructblip_jax.train.guard import DivergedError
from instructblip_jax.train.meter import Meter
from instructblip_jax.train.optimizer import optimizer, schedule
from instructblip_jax.train.step import Step, init_state, make_step
from instructblip_jax.train.stop import Stopped
from instructblip_jax.train.window import Window

FLAGS = flags.FLAGS
TEMPLATE_SETS = {"instructions": training_templates(), "plain": PLAIN}


def check(run: RunConfig, mesh: Mesh) -> None:
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
    if run.validate_every < -1:
        raise ValueError(f"config.validate_every is {run.validate_every}; it is -1, 0 (never) or a number of steps")
    if not 0 <= run.seed < 2**32:
        raise ValueError(f"config.seed is {run.seed}; it is a number from 0 to {2**32 - 1}")
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

    # What can be refused is refused before anything is written or takes long: the mesh, the fields, the workdir.
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check(config, mesh)
    workdir = Workdir(FLAGS.workdir)
    shorter = workdir.check(config, further=True)
    finished = workdir.read_json("train.json")
    if finished is not None and shorter is None:
        _report(workdir, finished, "already trained")
        return
    with workdir.held():
        _train(config, mesh, workdir, shorter, begun)


def _train(config: RunConfig, mesh: Mesh, workdir: Workdir, shorter: RunConfig | None, begun: float) -> None:
    """``shorter``: the run that W was begun with, where this one goes on from its end."""
    # 1. The sets that are there, and whether W's checkpoints were trained on them; then the model, which takes longer.
    writer, keep = distributed.is_writer(), config.checkpoints_kept
    checkpoints = workdir.checkpoints(keep=keep) if workdir.holds_checkpoints() else None
    start = (checkpoints.newest() if checkpoints else None) or 0
    there = open_sets(config, made=False)
    if checkpoints and start:
        checkpoints.check_sets(start, {name: source.digest for name, source in there.items()})
    model = load_model(config, mesh)
    processor = Processor.from_pretrained(model.directory, image_size=config.image_size)
    data = open_data(config, processor, mesh)
    if checkpoints and start:
        checkpoints.check_sets(start, data.digests)  # those that were only made now, too
    others = [name for name, digest in distributed.from_first(data.digests).items() if data.digests[name] != digest]
    if others:
        raise ValueError(
            f"{config.data.directory}: {', '.join(others)} holds other records here than for process 0; "
            "all hosts must see the same prepared sets"
        )
    batches = data.batches()

    # 2. The first batch shows what no field does: texts longer than the static lengths, a set that cannot be read.
    position = batches.get_state()
    next(batches)
    batches.set_state(position)
    if config.data.features:
        cached = compute.prepare(
            model,
            processor,
            data.sources,
            config.data.features,
            batch_size=config.batch_size,
            blank_image=config.data.blank_image,
        )
        batches = data.batches(features=cached)
    validate = None
    if config.validate_every:
        validate = validation.prepare(
            model,
            processor,
            validation.held_out(config.data.directory, data.mixture),
            TEMPLATE_SETS[config.data.templates],
            rows=config.batch_size // config.optim.accumulation,  # as many as a step computes at a time
            shapes=data.shapes or grid(config.data.instruction_lengths, config.data.response_lengths),
            seed=config.seed,
            blank_image=config.data.blank_image,
        )

    # 3. The workdir is this run's from here on. State: fresh, or the last checkpoint's with its place in the data.
    distributed.barrier("checked")  # by all, before the first one writes
    workdir.claim(config)
    checkpoints = checkpoints or workdir.checkpoints(keep=keep)
    tx = optimizer(config.optim, data.steps)
    state = meshes.replicate(mesh, init_state(model.train, tx, sets=len(data.mixture)))
    source, window = fingerprint(model.directory), Window(list(data.mixture))
    if start:
        state = checkpoints.restore(start, state, source)
        place = checkpoints.place(start)
        batches.set_state(place["iterator"])
        if "window" in place:
            window.set_state(place["window"])
    logged: loop.Data = batches
    if config.log_examples:
        logged = LoggedExamples(batches, workdir.examples, step=start, process=jax.process_index(), rows=data.own)
    _describe(config, model, data, start)
    if shorter and start and writer:
        _describe_further(shorter, config, data, start - int(state["guard"]["skipped"]))

    # 4. The loop.
    step_fn = step_of(config, model, tx, data.steps)
    metrics_log = log.MetricsLog(workdir.metrics, workdir.path / "tensorboard", step=start)
    profile = traced(FLAGS.profile) if FLAGS.profile and writer else None
    meter = meter_of(config, model, begun)
    with jax.set_mesh(mesh), meter:
        job = loop.Job(
            start=start,
            steps=data.steps,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            save=lambda step, state, place: checkpoints.save(step, state, place | {"sets": data.digests}, source),
            metrics_log=metrics_log,
            meter=meter,
            window=window,
            trace=trace.Trace(profile, workdir.path / "profile") if profile else None,
            validate=validate,
            validate_every=validate_every(config, data.steps),
        )
        try:
            put = partial(meshes.put_rows, mesh, own=data.own, rows=config.batch_size)
            state = loop.run(state, model.frozen, step_fn, logged, put, job)
        except Stopped as stopped:
            checkpoints.close()
            if writer:
                log.tell(str(stopped))
            sys.exit(143)
        except DivergedError as error:
            checkpoints.close()
            if writer:
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
        "steps": data.steps,
        "losses": metrics_log.losses(),
        "weights_sha256": weights_sha256(state["train"]),
        "goodput": meter.shares(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    if writer:
        workdir.write_json("train.json", result)
    print(meter.summary())
    _report(workdir, result, "trained")


def load_model(config: RunConfig, mesh: Mesh) -> InstructBlip:
    """The model that a run trains, as its fields say."""
    return InstructBlip.from_pretrained(
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


def open_sets(config: RunConfig, *, made: bool = True) -> dict[str, Source | Joined]:
    """The mixture's sets. Those of the embedded world are made where they are missing, or left out (not ``made``).

    Raises FileNotFoundError or ValueError naming the directory of one that is not there, or lacks the split.
    """
    directory, names = config.data.directory, {name: split_of(name, "train") for name in config.mixture.sets}
    if made:
        prepare_missing(directory, [bare for bare, _ in names.values()])
    return {
        name: open_set(directory, bare, split)
        for name, (bare, split) in names.items()
        if made or bare not in TASKS or is_prepared(directory, bare)
    }


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
      sources: the sets that are drawn from, by name.
      mixture: how often each of them is drawn; they add up to 1.
      steps: of the whole run.
      shapes: the static lengths of instruction and response that were fitted; none where the fields give them.
      own: this host's rows of a batch.
      batches: makes them, from the first; its ``features`` are those of `training_batches`.
    """

    sources: dict[str, Source | Joined]
    mixture: dict[str, float]
    steps: int
    shapes: list[Shape]
    own: np.ndarray
    batches: Callable[..., grain.DatasetIterator]

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Set -> a digest of its records."""
        return {name: source.digest for name, source in self.sources.items()}


def open_data(config: RunConfig, processor: Processor, mesh: Mesh) -> Data:
    """The sets, mixed. Raises what `open_sets` and `probabilities` raise."""
    sources = open_sets(config)
    sizes = {name: len(source) for name, source in sources.items()}
    mixture = probabilities(
        sizes, exponent=config.mixture.exponent, weights=config.mixture.weights, caps=config.mixture.caps
    )
    drawn = {name: sources[name] for name in mixture}
    templates = TEMPLATE_SETS[config.data.templates]
    shapes: list[Shape] = []
    if config.data.shapes:
        lengths = sample_lengths(drawn, mixture, processor, templates, seed=config.seed)
        longest = (max(config.data.instruction_lengths), max(config.data.response_lengths))
        shapes = fit(lengths, longest, config.data.shapes)
    own = meshes.local_rows(mesh, config.batch_size)
    batches = partial(
        training_batches,
        drawn,
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
    return Data(drawn, mixture, total_steps(config, sum(sizes[name] for name in mixture)), shapes, own, batches)


def total_steps(config: RunConfig, records: int) -> int:
    """``steps``, or those of so many ``epochs`` over the records, the last batch of which is as full as any."""
    return config.steps or math.ceil(config.epochs * records / config.batch_size)


def validate_every(config: RunConfig, steps: int) -> int:
    """Steps from one validation loss to the next, where any is asked for; see `config.RunConfig`."""
    return config.validate_every if config.validate_every > 0 else max(1, steps // 10)


def step_of(config: RunConfig, model: InstructBlip, tx: optax.GradientTransformation, steps: int) -> Step:
    """The run's train step."""
    return make_step(
        partial(merge, model.graph),
        tx,
        seed=config.seed,
        accumulation=config.optim.accumulation,
        spike_factor=config.optim.spike_factor,
        rate=schedule(config.optim, steps),
        compiler_options=model.compiler_options,
    )


def meter_of(config: RunConfig, model: InstructBlip, begun: float) -> Meter:
    """The meter of the run. MFU is relative to the peak of all devices of the mesh together."""
    chip = chips.chip_of(model.mesh.devices.flat[0].device_kind)
    return Meter(
        begun=begun,
        flops_per_batch=lambda shapes: flops.batch(model.config, shapes, config.trainable),
        peak_flops=chip.bf16 * model.mesh.size if chip else None,
    )


def _report(workdir: Workdir, result: dict[str, Any], what: str) -> None:
    if FLAGS.json and distributed.is_writer():
        epath.Path(FLAGS.json).write_text(json.dumps(result, indent=2) + "\n")
    print(f"{what} to step {result['steps']} in {result['seconds']} s; checkpoints in {workdir.path / 'checkpoints'}")


def _describe(config: RunConfig, model: InstructBlip, data: Data, start: int) -> None:
    trained = sum(x.size for x in model.train.values())
    frozen = sum(x.size for x in model.frozen.values())
    mesh = " x ".join(f"{name} {size}" for name, size in model.mesh.shape.items())
    devices = f"{model.mesh.size} x {model.mesh.devices.flat[0].device_kind}"
    where = f"from step {start}" if start else "from the start"
    name = Path(config.model).name
    print(f"{name}: {trained:,} trained and {frozen:,} frozen parameters; {devices}, mesh {mesh}; {where}")
    print("mixture: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in data.mixture.items()))
    if data.shapes:
        print("text shapes: " + ", ".join(f"{a} + {b}" for a, b in data.shapes))
    sys.stdout.flush()


def _describe_further(shorter: RunConfig, config: RunConfig, data: Data, updates: int) -> None:
    before = total_steps(shorter, sum(map(len, data.sources.values())))
    stood, goes_on = (float(schedule(config.optim, steps)(updates)) for steps in (before, data.steps))
    print(
        f"training on: {data.steps} steps where {before} were planned. The schedule is that of {data.steps} steps from "
        f"here on, so the learning rate goes from {stood:.3g} to {goes_on:.3g}",
        flush=True,
    )
