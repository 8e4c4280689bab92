"""The costs of a run: trainable parameters, and FLOPs and seconds per sample."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np

from instructblip_jax import families, hub
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.plan import flops, tracing
from instructblip_jax.processor import Processor
from instructblip_jax.run.config import RunConfig
from instructblip_jax.run.open_data import open_data
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.train.groups import rows
from instructblip_jax.train.log import read

BATCHES = 64
"""Number of batches of a run whose shapes are considered."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of a configuration.

    Attributes:
      trained: number of trainable parameters.
      samples: rows that a run trains on.
      flops: training FLOPs per sample, the mean over the first `BATCHES` batches: see `plan.flops`. A frozen tower
        counts with its forward pass, even if its features are cached.
      seconds: training time per sample, the median over the log lines of all runs without compilation; None if no log
        has such a line.
    """

    trained: int
    samples: int
    flops: float
    seconds: float | None


def outline(run: RunConfig) -> tracing.Outline:
    """The system of a run as shapes. ``run.trainable`` must be set (`run.check.with_system`)."""
    config = families.read_config(hub.resolve(run.model)).configured(**run.system_options())
    return tracing.describe(config, trainable=run.trainable, dtype=run.dtype, remat=run.remat, int8=run.int8)


def of_runs(workdirs: Sequence[Workdir], system: tracing.Outline) -> Costs:
    """The costs of one configuration's finished runs, which differ in their seeds; the first one is traced."""
    run = workdirs[0].saved_config()
    shapes = _shapes(run)
    total = sum(times * flops.of_batch(system, dict(own)) for own, times in shapes.items())
    batch = sum(times * rows(dict(own)) for own, times in shapes.items())
    finished = workdirs[0].read_json("train.json") or {}
    return Costs(
        trained=sum(math.prod(x.shape) for x in system.train.values()),
        samples=finished.get("steps", run.steps) * run.batch_size,
        flops=total / batch,
        seconds=_seconds(workdirs),
    )


def _shapes(run: RunConfig) -> Counter[tuple]:
    """Shapes of a batch's arrays, by key -> how many of the run's first batches have these shapes."""
    processor = Processor.from_pretrained(run.model, **run.system_options()).holding(run.data.pictures)
    data = open_data(run, processor.resizing(run.data.resize).augmenting(run.data.augment), single_device_mesh())
    batches, found = data.batches(), Counter[tuple]()
    for _ in range(min(BATCHES, data.steps)):
        arrays = {name: x.shape for name, x in next(batches).items() if isinstance(x, np.ndarray)}
        found[tuple(sorted(arrays.items()))] += 1
    return found


def _seconds(workdirs: Sequence[Workdir]) -> float | None:
    """Lines with a compilation are left out, and with them the start of each run."""
    warm = [
        1 / entry["samples_per_second"]
        for workdir in workdirs
        for entry in read(workdir.metrics)
        if entry.get("samples_per_second") and not entry.get("compilations")
    ]
    return statistics.median(warm) if warm else None
