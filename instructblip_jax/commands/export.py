"""`instructblip export` behind its command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from absl import flags

from instructblip_jax import distributed, families, files, hub
from instructblip_jax.convert import save
from instructblip_jax.convert.new_directory import check_free
from instructblip_jax.convert.write import Lazy, Tensor, as_dict, as_table
from instructblip_jax.mesh import make_mesh
from instructblip_jax.run.checkpoint import fingerprint
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.systems.build import Arrays, abstract
from instructblip_jax.systems.protocol import SystemConfig

FLAGS = flags.FLAGS


def run(args: Sequence[str]) -> None:
    """Write the directory; in a job of several processes all of them read, and write their share of it."""
    distributed.start()
    out = Path(FLAGS.out)
    with distributed.together():
        if distributed.is_writer() and "://" in FLAGS.model:
            check_free(out)  # before anything is fetched
    directory = hub.resolve(FLAGS.model)
    with distributed.together():
        if distributed.is_writer():
            check_free(out, directory)  # before anything is read
    config = families.read_config(directory)
    trained: dict[str, Lazy] = {}
    step = None
    if FLAGS.workdir:
        config, trained, step = _trained(directory, config, FLAGS.workdir)
    tensors: dict[str, Tensor] = dict(trained)
    if FLAGS.lora == "adapter":
        written = families.export_adapter(out, directory, config, tensors, FLAGS.model)
        print(as_table(written))
        print(f"{FLAGS.out}: an adapter of {FLAGS.model}, as step {step} of {FLAGS.workdir} has it")
    else:
        tensors = families.merged(directory, config, tensors)
        written = families.export(out, directory, config, tensors, max_shard_bytes=int(FLAGS.max_shard_gb * 1e9))
        print(as_table(written))
        replaced = f"{len(tensors)} of the tensors are those of step {step} of {FLAGS.workdir}, " if tensors else ""
        print(f"{FLAGS.out}: {replaced}the {'others' if tensors else 'tensors'} are those of {FLAGS.model}")
    if FLAGS.json and distributed.is_writer():
        report = {"out": FLAGS.out, "step": step, "trained": sorted(tensors), **as_dict(written)}
        files.write_json(FLAGS.json, report)


def _trained(directory: Path, config: SystemConfig, path: str) -> tuple[SystemConfig, dict[str, Lazy], int]:
    """The run's configuration of the system, the trained tensors of its newest checkpoint by Hugging Face name, and the
    checkpoint's step. The model is not loaded, and all devices of the job share what was trained."""
    workdir = Workdir(path)
    saved = workdir.saved_config()
    config = config.configured(**saved.system_options())
    mesh = make_mesh(data=1, fsdp=-1)
    _, shapes, _ = abstract(config, mesh=mesh, dtype="float32", trainable=saved.trainable)
    train = cast(Arrays, dict(shapes))  # restoring asks only for shapes and places
    step = workdir.restore_into(train, None, fingerprint(directory))
    rules = families.family_of(directory).rules_for(directory, config)
    return config, save.lazy(rules, train), step
