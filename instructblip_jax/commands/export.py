"""`instructblip export` behind its command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from absl import flags

from instructblip_jax import distributed, files, hub
from instructblip_jax.convert import save
from instructblip_jax.convert.export import export
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.new_directory import check_free
from instructblip_jax.convert.write import as_dict, as_table
from instructblip_jax.mesh import make_mesh
from instructblip_jax.run.checkpoint import fingerprint
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.systems.build import Arrays, abstract

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
    trained, step, image_size = _trained(directory, FLAGS.workdir) if FLAGS.workdir else ({}, None, 0)
    if writer:
        _write(directory, trained, step, image_size)
    distributed.barrier("export")


def _write(directory: Path, trained: dict[str, np.ndarray], step: int | None, image_size: int) -> None:
    largest = int(FLAGS.max_shard_gb * 1e9)
    written = export(FLAGS.out, directory, trained, max_shard_bytes=largest, image_size=image_size)
    print(as_table(written))
    replaced = f"{len(trained)} of the tensors are those of step {step} of {FLAGS.workdir}, " if trained else ""
    print(f"{FLAGS.out}: {replaced}the {'others' if trained else 'tensors'} are those of {FLAGS.model}")
    if FLAGS.json:
        report = {"out": FLAGS.out, "step": step, "trained": sorted(trained), **as_dict(written)}
        files.write_json(FLAGS.json, report)


def _trained(directory: Path, path: str) -> tuple[dict[str, np.ndarray], int, int]:
    """The trained tensors of the newest checkpoint, by Hugging Face name, its step, and the run's ``image_size``. The
    model is not loaded."""
    workdir = Workdir(path)
    run = workdir.saved_config()
    config = hf_instructblip.read_config(directory / "config.json").at(run.image_size)
    _, shapes, _ = abstract(config, mesh=make_mesh(), dtype="float32", trainable=run.trainable)
    train = cast(Arrays, dict(shapes))  # restoring asks for shapes and places only
    step = workdir.restore_into(train, None, fingerprint(directory))
    return dict(save.tensors(hf_instructblip.rules(config), train)), step, run.image_size
