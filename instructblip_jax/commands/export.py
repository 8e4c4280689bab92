"""Runs `instructblip export`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from absl import flags

from instructblip_jax import distributed, families, files, hub, model_card
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
    """Write the directory, then push it. In a job of several processes all of them write, and process 0 pushes."""
    if FLAGS.upload:
        hub.check_token()  # before anything is written
    report: dict[str, Any] = {"out": FLAGS.out}
    if FLAGS.model:
        distributed.start()
        report |= _export(Path(FLAGS.out))
    if distributed.is_writer():
        if FLAGS.push:
            report["push"] = _push(Path(FLAGS.out))
        if FLAGS.json:
            files.write_json(FLAGS.json, report)


def _export(out: Path) -> dict[str, Any]:
    """Write the directory; returns its entry for --json."""
    with distributed.together():
        if distributed.is_writer() and "://" in FLAGS.model:
            check_free(out)  # before any download
    directory = hub.resolve(FLAGS.model)
    with distributed.together():
        if distributed.is_writer():
            check_free(out, directory)  # before anything is read
    config = families.read_config(directory)
    trained: dict[str, Lazy] = {}
    run = None
    if FLAGS.workdir:
        config, trained, run = _trained(directory, config, Workdir(FLAGS.workdir))
    tensors: dict[str, Tensor] = dict(trained)
    raw, adapter = files.read_json(directory / "config.json"), FLAGS.lora == "adapter"
    card = model_card.card(FLAGS.push or out.name, FLAGS.model, directory, raw, run, adapter)
    if adapter:
        written = families.export_adapter(out, directory, config, tensors, FLAGS.model, card)
        print(as_table(written))
        print(f"{FLAGS.out}: an adapter of {FLAGS.model} from step {run and run.step} of {FLAGS.workdir}")
    else:
        tensors, size = families.merged(directory, config, tensors), int(FLAGS.max_shard_gb * 1e9)
        written = families.export(out, directory, config, tensors, max_shard_bytes=size, card=card)
        print(as_table(written))
        replaced = f"{len(tensors)} of the tensors are those of step {run.step} of {FLAGS.workdir}, " if run else ""
        print(f"{FLAGS.out}: {replaced}the {'others' if tensors else 'tensors'} are those of {FLAGS.model}")
    return {"step": run.step if run else None, "trained": sorted(tensors), **as_dict(written)}


def _push(out: Path) -> dict[str, Any]:
    """List the files for the hub, and upload them with --upload; returns the entry for --json."""
    found = hub.to_upload(out)
    width = max(map(len, found))
    print(f"\n{FLAGS.push} on the hub:")
    print("\n".join(f"  {name:<{width}}  {size / 1e6:12,.3f} MB" for name, size in found.items()))
    print(f"  {f'{len(found)} files':<{width}}  {sum(found.values()) / 1e6:12,.3f} MB")
    address = None
    if FLAGS.upload:
        address = hub.upload(out, FLAGS.push)
        print(f"uploaded: {address}; a newly created repository is private until its settings are changed")
    else:
        again = shlex.join(["instructblip", "export", "--out", FLAGS.out, "--push", FLAGS.push, "--upload"])
        print(f"nothing was uploaded. To upload it (a new repository will be private):\n  {again}")
    return {"repository": FLAGS.push, "files": found, "uploaded": address}


def _trained(
    directory: Path, config: SystemConfig, workdir: Workdir
) -> tuple[SystemConfig, dict[str, Lazy], model_card.Trained]:
    """The run's system configuration, the trained tensors of its newest checkpoint by Hugging Face name, and the run
    for the card. The model is not loaded; the trained parameters are sharded over all devices of the job."""
    saved = workdir.saved_config()
    config = config.configured(**saved.system_options())
    mesh = make_mesh(data=1, fsdp=-1)
    _, shapes, _ = abstract(config, mesh=mesh, dtype="float32", trainable=saved.trainable)
    train = cast(Arrays, dict(shapes))  # restoring needs only shapes and shardings
    step = workdir.restore_into(train, None, fingerprint(directory))
    rules = families.family_of(directory).rules_for(directory, config)
    tensors = save.lazy(rules, train)
    sizes = {name: tensor.shape for name, tensor in tensors.items()}
    return config, tensors, model_card.Trained(saved, step, sizes, workdir.read_json("evaluation.json"))
