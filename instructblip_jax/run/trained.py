"""A model with the parameters that a run trained, for commands that ask it."""

from typing import Any

from jax.sharding import Mesh

from instructblip_jax.model import Model
from instructblip_jax.processor import Processor
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run.checkpoint import fingerprint
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.sharding import SHARDED


def load(
    directory: str, workdir: str | None, *, mesh: Mesh | None = None, dtype: str | None = None, int8: bool = False
) -> tuple[Model, BaseProcessor]:
    """A model directory, with the trained parameters of a run if ``workdir`` names one, and its processor.

    ``dtype``: the compute type; None is the run's, or bfloat16. Raises FileNotFoundError or ValueError naming the file.
    """
    options: dict[str, Any] = {"dtype": "bfloat16"}
    system_options: dict[str, Any] = {}
    run = Workdir(workdir) if workdir else None
    if run is not None:
        saved = run.saved_config()
        # What concerns training, or the mesh of that run, is left at its default.
        options = saved.model_options(layout=SHARDED, remat="none", scan_layers=None)
        system_options = saved.system_options()
    if dtype:
        options["dtype"] = dtype
    model = Model.from_pretrained(directory, mesh, **(options | {"int8": int8}))
    if run is not None:
        run.restore_into(model.train, None, fingerprint(model.directory))
    return model, Processor.from_pretrained(model.directory, **system_options)
