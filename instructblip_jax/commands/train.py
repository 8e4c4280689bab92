"""Runs `instructblip train`: the run, from its configuration to its last checkpoint."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from instructblip_jax import distributed, files, validation
from instructblip_jax import mesh as meshes
from instructblip_jax.command_lines.train import traced
from instructblip_jax.features import compute
from instructblip_jax.model import Model
from instructblip_jax.plan import chips, flops
from instructblip_jax.processor import Processor
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run import describe
from instructblip_jax.run.check import check, with_system
from instructblip_jax.run.checkpoint import fingerprint, weights_sha256
from instructblip_jax.run.config import RunConfig, resolve
from instructblip_jax.run.open_data import Data, open_data, open_sets
from instructblip_jax.run.start import Start
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.systems.build import follow, merge
from instructblip_jax.train import log, loop, trace
from instructblip_jax.train.examples import LoggedExamples
from instructblip_jax.train.guard import DivergedError
from instructblip_jax.train.meter import Meter
from instructblip_jax.train.optimizer import optimizer, schedule
from instructblip_jax.train.step import TrainState, init_state, make_step
from instructblip_jax.train.stop import Stopped
from instructblip_jax.train.tracker import Tracker
from instructblip_jax.train.window import Window

FLAGS = flags.FLAGS


def run(args: Sequence[str]) -> None:
    """Train, from the last checkpoint in W if there is one."""
    begun = time.perf_counter()
    config = resolve(FLAGS.config)
    distributed.start()

    # Errors are raised before anything is written or takes long.
    mesh = meshes.make_mesh(*dataclasses.astuple(config.mesh))
    check(config, mesh)
    workdir = Workdir(FLAGS.workdir)
    shorter = workdir.check(config, further=True)
    finished = workdir.read_json("train.json")
    if finished is not None and shorter is None:
        _report(workdir, finished, "already trained")
        return
    config, directory = with_system(config)
    shorter = workdir.check(config, further=True)  # again, now that the trainable set is resolved
    with workdir.held():
        result = _train(config, directory, mesh, workdir, shorter, begun)
    _report(workdir, result, "trained")


def _train(
    config: RunConfig, directory: Path, mesh: Mesh, workdir: Workdir, shorter: RunConfig | None, begun: float
) -> dict[str, Any]:
    """Train, and return the contents of train.json. ``shorter``: the finished run that this one continues, if any."""
    # The sets come first, because the model takes longer to load.
    start = Start(workdir, keep=config.checkpoints_kept)
    start.check_sets({name: source.digest for name, source in open_sets(config, prepare=False).items()})
    model, processor = load_model(config, directory, mesh)
    resizing = processor.resizing(config.data.resize).augmenting(config.data.augment)
    data = open_data(config, resizing, mesh)
    start.check_sets(data.digests)  # again, because missing sets have been prepared
    data.check_shared()
    batches = open_batches(config, model, resizing, data)
    validate = open_validation(config, model, processor, data)

    tx, source, window = optimizer(config.optim, data.steps), fingerprint(model.directory), Window(list(data.mixture))
    state = init_state(model.train, tx, sets=len(data.mixture), memory=model.memory)
    state = start.restore(meshes.replicate(mesh, state), source, batches, window)

    distributed.barrier("checked")  # process 0 writes only after every process has accepted the run
    workdir.claim(config)
    describe.run(config, model, data, start.step)
    if shorter and start.step:
        describe.further(shorter, config, data, updates=start.step - int(state["guard"]["skipped"]))

    tracked = None
    if config.wandb and distributed.is_writer():
        tracked = Tracker(config.wandb, workdir.path, dataclasses.asdict(config))
    metrics_log = log.MetricsLog(workdir.metrics, workdir.path / "tensorboard", step=start.step, tracker=tracked)
    profile = traced(FLAGS.profile) if FLAGS.profile and distributed.is_writer() else None
    checkpoints = start.checkpoints
    job = loop.Job(
        start=start.step,
        steps=data.steps,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        save=lambda step, state, place: checkpoints.save(step, state, place | {"sets": data.digests}, source),
        metrics_log=metrics_log,
        meter=meter_of(model, begun),
        window=window,
        trace=trace.Trace(profile, workdir.path / "profile") if profile else None,
        validate=validate,
        validate_every=config.validate_every if config.validate_every > 0 else max(1, data.steps // 10),
    )
    step_fn = make_step(
        partial(merge, model.graph),
        tx,
        seed=config.seed,
        accumulation=config.optim.accumulation,
        spike_factor=config.optim.spike_factor,
        rate=schedule(config.optim, data.steps),
        follow=partial(follow, model.config),
        groups=data.weights,
        compiler_options=model.step_options,
    )
    put = partial(data.put, mesh)
    examples: loop.Data = batches
    if config.log_examples:
        examples = LoggedExamples(
            batches, workdir.examples, step=start.step, process=jax.process_index(), rows=data.own
        )
    with jax.set_mesh(mesh), job.meter:
        state = _ended(partial(loop.run, state, model.frozen, step_fn, examples, put, job), start, workdir)
        job.meter.enter("saving")
        checkpoints.close()
    if tracked is not None:
        tracked.close()

    result = {
        "steps": data.steps,
        "losses": metrics_log.losses(),
        "weights_sha256": weights_sha256(state["train"]),
        "goodput": job.meter.shares(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    if distributed.is_writer():
        workdir.write_json("train.json", result)
    print(job.meter.summary())
    return result


def load_model(config: RunConfig, directory: Path, mesh: Mesh) -> tuple[Model, BaseProcessor]:
    """The model in ``directory``, set up for training, and its processor."""
    model = Model.from_pretrained(str(directory), mesh, **config.model_options())
    return model, Processor.from_pretrained(model.directory, **config.system_options()).holding(config.data.pictures)


def open_batches(config: RunConfig, model: Model, processor: BaseProcessor, data: Data) -> Any:
    """An iterator over the run's batches. If cached features are used, missing ones are computed now."""
    batches = data.batches()
    # A first batch finds errors that no field shows: texts longer than the static lengths, an unreadable set.
    position = batches.get_state()
    next(batches)
    batches.set_state(position)
    if not config.data.features:
        return batches
    features = compute.prepare(
        model,
        processor,
        data.sources,
        config.data.features,
        batch_size=config.batch_size,
        blank_image=config.data.blank_image,
    )
    return data.batches(features=features)


def open_validation(
    config: RunConfig, model: Model, processor: BaseProcessor, data: Data
) -> Callable[..., dict[str, float]] | None:
    """The run's validation losses; None if there is no validation data."""
    if not config.validate_every:
        return None
    found = [
        validation.prepare(
            model,
            processor.holding(group.pictures) if group.pictures else processor,
            validation.held_out(data.directory, group.mixture),
            data.templates,
            rows=group.rows // config.optim.accumulation,  # the rows that a step computes at once
            shapes=group.shapes,
            seed=config.seed,
            blank_image=config.data.blank_image,
            documents=config.data.documents,
        )
        for group in data.groups.values()
    ]
    return validation.together(found)


def meter_of(model: Model, begun: float) -> Meter:
    """The run's meter. MFU is relative to the combined peak of all devices of the mesh."""
    chip = chips.chip_of(model.mesh.devices.flat[0].device_kind)
    return Meter(
        begun=begun,
        flops_per_batch=partial(flops.of_batch, model),
        peak_flops=chip.bf16 * model.mesh.size if chip else None,
    )


def _ended(train: Any, start: Start, workdir: Workdir) -> TrainState:
    """The state after ``train()``. If it ends early, this waits for the checkpoints that are being written."""
    writer = distributed.is_writer()
    try:
        return train()
    except Stopped as stopped:
        start.checkpoints.close()
        if writer:
            log.report(str(stopped))
        sys.exit(143)
    except DivergedError as error:
        start.checkpoints.close()
        if writer:
            path = workdir.write_json("diverged.json", error.record)
            raise DivergedError(f"{error} (the step's examples: {path})", error.record) from None
        raise
    except Exception:
        # After an error, a process must not wait for the other processes of the job, which wait for it.
        if jax.process_count() == 1:
            start.checkpoints.close()
        raise


def _report(workdir: Workdir, result: dict[str, Any], what: str) -> None:
    if FLAGS.json and distributed.is_writer():
        files.write_json(FLAGS.json, result)
    print(f"{what} to step {result['steps']} in {result['seconds']} s; checkpoints in {workdir.path / 'checkpoints'}")
