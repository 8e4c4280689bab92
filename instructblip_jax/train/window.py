"""Losses since the last logged step: the mean over all tokens, and of each set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Window:
    """Sums over the steps since the last logged one, which a checkpoint keeps: a resumed run logs the same numbers.

    ``sets``: the mixture's names, in the order in which the batches' "set" counts them.
    """

    def __init__(self, sets: Sequence[str] = ()):
        self.sets = tuple(sets)
        self.drawn: np.ndarray | None = None  # samples of each set, since the start of the run
        self._begin()

    def _begin(self) -> None:
        self.loss, self.tokens = 0.0, 0.0
        self.set_loss, self.set_tokens = np.zeros(len(self.sets)), np.zeros(len(self.sets))

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """A finished step's metrics: "loss", "tokens" and, where its batch named sets, "set_loss", "set_tokens" and
        "drawn", [sets] each."""
        self.loss += float(metrics["loss"]) * float(metrics["tokens"])
        self.tokens += float(metrics["tokens"])
        if "drawn" in metrics:
            self.set_loss += metrics["set_loss"]
            self.set_tokens += metrics["set_tokens"]
            self.drawn = metrics["drawn"]

    def entry(self) -> dict[str, Any]:
        """The means of the window, which ends here: a token counts as much as any other, whatever its batch."""
        # In float64 a loss times its tokens is exact: the mean over one step is that step's own loss, bit for bit.
        figures: dict[str, Any] = {"loss": self.loss / max(self.tokens, 1.0), "tokens": self.tokens}
        if self.drawn is not None:
            sums = zip(self.sets, self.set_loss, self.set_tokens, strict=True)
            figures["losses"] = {name: float(loss / tokens) for name, loss, tokens in sums if tokens}
            figures["samples"] = dict(zip(self.sets, map(int, self.drawn), strict=True))
        self._begin()
        return figures

    def get_state(self) -> dict[str, Any]:
        """The sums, as JSON keeps them without rounding."""
        sums = {"loss": self.loss, "tokens": self.tokens}
        return sums | {"set_loss": self.set_loss.tolist(), "set_tokens": self.set_tokens.tolist()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.loss, self.tokens = state["loss"], state["tokens"]
        self.set_loss, self.set_tokens = np.array(state["set_loss"]), np.array(state["set_tokens"])
