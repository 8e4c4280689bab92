"""`instructblip export` behind its command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from absl import flags

from instructblip_jax import distributed, families, files, hub
from instructblip_jax.convert import save
from instructblip_jax.convert.new_directory import check_free
from instructblip_jax.convert.write import as_dict, as_table
from instructblip_jax.mesh import make_mesh
from instructblip_jax.run.checkpoint import fingerprint
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.systems.build import Arrays, abstract
from instructblip_jax.systems.protocol import SystemConfig

FLAGS = flags.FLAGS


def run(args: Sequence[str]) -> None:
    """Write the directory; in a job of several processes all of them read, and the first one writes."""
    distributed.start()
    writer = distributed.is_writer()
    if writer and "://" in FLAGS.model:
        check_free(Path(FLAGS.out))  # before anything is fetched
    directory = hub.resolve(FLAGS.model)
    if writer:
        check_free(Path(FLAGS.out), directory)  # before anything is read
    config = families.read_config(directory)
    trained: dict[str, np.ndarray] = {}
    step = None
    if FLAGS.workdir:
        config, trained, step = _trained(directory, config, FLAGS.workdir)
    if writer:
        _write(directory, config, trained, step)
    distributed.barrier("export")


def _write(directory: Path, config: SystemConfig, trained: dict[str, np.ndarray], step: int | None) -> None:
    largest = int(FLAGS.max_shard_gb * 1e9)
    written = families.export(FLAGS.out, directory, config, trained, max_shard_bytes=largest)
    print(as_table(written))
    replaced = f"{len(trained)} of the tensors are those of step {step} of {FLAGS.workdir}, " if trained else ""
    print(f"{FLAGS.out}: {replaced}the {'others' if trained else 'tensors'} are those of {FLAGS.model}")
    if FLAGS.json:
        report = {"out": FLAGS.out, "step": step, "trained": sorted(trained), **as_dict(written)}
        files.write_json(FLAGS.json, report)


def _trained(directory: Path, config: SystemConfig, path: str) -> tuple[SystemConfig, dict[str, np.ndarray], int]:
    """The run's configuration of the system, the trained tensors of its newest checkpoint by Hugging Face name, and the
    checkpoint's step. The model is not loaded."""
    workdir = Workdir(path)
    saved = workdir.saved_config()
    config = config.configured(**saved.system_options())
    _, shapes, _ = abstract(config, mesh=make_mesh(), dtype="float32", trainable=saved.trainable)
    train = cast(Arrays, dict(shapes))  # restoring asks only for shapes and places
    step = workdir.restore_into(train, None, fingerprint(directory))
    rules = families.family_of(directory).rules_for(directory, config)
    return config, dict(save.tensors(rules, train)), step
