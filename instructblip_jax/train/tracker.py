"""The metrics of a run in Weights & Biases, for runs that ask for it; the package is imported nowhere else."""

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from etils import epath


def missing() -> bool:
    """True if the package is not installed."""
    return importlib.util.find_spec("wandb") is None


class Tracker:
    """A run in a W&B ``project``, named after its workdir. A resumed run continues the one that it began.

    WANDB_MODE, WANDB_ENTITY and the package's other variables have their usual meaning; its own files go into a local
    workdir, or else into the current directory. ``config``: the run's fields.
    """

    def __init__(self, project: str, workdir: epath.Path, config: Mapping[str, Any]):
        import wandb

        place = os.fspath(workdir)
        self.run = wandb.init(
            project=project,
            name=workdir.name,
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            dir=None if "://" in place else place,
            config=dict(config),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step. Those of steps that it has already, before a run was killed, are dropped by W&B:
        they are computed again, and are the same."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until everything is sent."""
        self.run.finish()
