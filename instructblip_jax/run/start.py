"""The initial state of a run: its model's, or that of the newest checkpoint in W."""

from collections.abc import Mapping
from typing import Any, Protocol

from instructblip_jax.run.checkpoint import Checkpoints
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.train.step import TrainState
from instructblip_jax.train.window import Window


class Positioned(Protocol):
    """Batches whose position can be set."""

    def set_state(self, state: Any) -> None: ...


class Start:
    """The newest checkpoint of W, if there is one.

    Attributes:
      step: the step after which it was written; 0 without one.
    """

    def __init__(self, workdir: Workdir, *, keep: int):
        self.workdir, self.keep = workdir, keep
        self._checkpoints = workdir.checkpoints(keep=keep) if workdir.holds_checkpoints() else None
        self.step = (self._checkpoints.newest() if self._checkpoints else None) or 0

    def check_sets(self, digests: Mapping[str, str]) -> None:
        """Raise ValueError if the checkpoint was trained on other records; ``digests``: set -> digest."""
        if self._checkpoints and self.step:
            self._checkpoints.check_sets(self.step, digests)

    def restore(self, state: TrainState, source: str, batches: Positioned, window: Window) -> TrainState:
        """The state to start from, sharded like ``state``, the state of the model.

        Sets the position of ``batches`` and the sums of ``window``. ``source``: the `checkpoint.fingerprint` of the
        model. Raises ValueError for a checkpoint of another model, or of other trained parameters.
        """
        if not (self._checkpoints and self.step):
            return state
        state = self._checkpoints.restore(self.step, state, source)
        place = self._checkpoints.place(self.step)
        batches.set_state(place["iterator"])
        if "window" in place:
            window.set_state(place["window"])
        return state

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of W; their directory is created if it is missing, so W must be claimed before."""
        if self._checkpoints is None:
            self._checkpoints = self.workdir.checkpoints(keep=self.keep)
        return self._checkpoints
