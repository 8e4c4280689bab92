"""A model and its processor as a run of `train` left them: the public `from_run`, and `load` for commands."""

from pathlib import Path

from jax.sharding import Mesh

from instructblip_jax.model import Model
from instructblip_jax.processor import Processor
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run.checkpoint import fingerprint
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.sharding import SHARDED
from instructblip_jax.systems.protocol import Int8


def from_run(
    workdir: str | Path,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    *,
    model: str | Path | None = None,
    checkpoint: int | None = None,
    int8: Int8 = False,
) -> tuple[Model, BaseProcessor]:
    """The model that a run tuned, with the parameters that it trained, and its processor.

    Args:
      workdir: the run's directory W, local or gs://. Its config.json names the model and the system's options.
      mesh: from `make_mesh`; None is one device.
      dtype: compute type; None is the run's.
      model: the model's directory or hub id, where it is another than the one that config.json names: a moved one, say.
      checkpoint: the step; None is the newest.
      int8: see `Model.from_pretrained`.

    Raises FileNotFoundError or ValueError for a directory that is no workdir, a model that is not there or is another
    than the run's, or a checkpoint that is missing or damaged.
    """
    run = Workdir(str(workdir))
    saved = run.saved_config()
    # What concerns training alone, or the mesh of that run, is left at its default.
    options = saved.model_options(layout=SHARDED, remat="none", scan_layers=None, int8=int8)
    try:
        loaded = Model.from_pretrained(model or saved.model, mesh, **(options | ({"dtype": dtype} if dtype else {})))
    except FileNotFoundError as error:
        if model is not None:
            raise
        raise FileNotFoundError(
            f"{run.path / 'config.json'}: model: {error}. If it was moved, name its place: model=, or --model"
        ) from error
    run.restore_into(loaded.train, checkpoint, fingerprint(loaded.directory))
    return loaded, Processor.from_pretrained(loaded.directory, **saved.system_options())


def load(
    directory: str | None,
    workdir: str | None,
    *,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    int8: Int8 = False,
) -> tuple[Model, BaseProcessor]:
    """The model of a directory or hub id, with the trained parameters of a run if ``workdir`` names one, and its
    processor. One of the two is needed. ``dtype``: the compute type; None is the run's, or bfloat16. Raises as
    `from_run`."""
    if workdir:
        return from_run(workdir, mesh, dtype, model=directory, int8=int8)
    if not directory:
        raise ValueError("no model is named, and no run: give one of them")
    model = Model.from_pretrained(directory, mesh, dtype or "bfloat16", int8=int8)
    return model, Processor.from_pretrained(model.directory)
