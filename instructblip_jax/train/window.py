"""Losses since the last logged step: the mean over all counted tokens or rows, for each term and each set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Window:
    """Sums over the steps since the last logged one; they are saved in checkpoints, so that a resumed run logs the
    same.

    ``sets``: names of the mixture's sets, in the order of the batches' "set" indices.
    """

    def __init__(self, sets: Sequence[str] = ()):
        self.sets = tuple(sets)
        self.weights: dict[str, float] = {}  # of the loss terms, in the order of all arrays here
        self.shares: dict[str, float] = {}  # of their groups, in a step's loss
        self.drawn: np.ndarray | None = None  # samples of each set, since the start of the run
        self._begin()

    def _begin(self) -> None:
        self.tokens = 0.0
        self.totals, self.counts = np.zeros(1), np.zeros(1)  # [terms]
        self.set_totals, self.set_counts = np.zeros((1, len(self.sets))), np.zeros((1, len(self.sets)))

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of a finished step; see `train.step.make_step`."""
        self.weights = {name: float(weight) for name, weight in metrics["weights"].items()}
        self.shares = {name: float(share) for name, share in metrics.get("shares", {}).items()}
        means, counts = (np.array([float(metrics[of][name]) for name in self.weights]) for of in ("terms", "counts"))
        self.totals = self.totals + means * counts
        self.counts = self.counts + counts
        self.tokens += float(metrics["tokens"])
        if "drawn" in metrics:
            self.set_totals = self.set_totals + [metrics["set_totals"][name] for name in self.weights]
            self.set_counts = self.set_counts + [metrics["set_counts"][name] for name in self.weights]
            self.drawn = metrics["drawn"]

    def entry(self) -> dict[str, Any]:
        """The means of the window, which ends here; every counted token or row has the same weight in any batch."""
        # In float64 a mean times its count is exact: the mean over one step is that step's own, bit for bit.
        means = dict(zip(self.weights, (self.totals / np.maximum(self.counts, 1.0)).tolist(), strict=False))
        shared = {name: self.shares.get(name, 1.0) * mean for name, mean in means.items()}
        figures: dict[str, Any] = {"loss": self._weighted(shared), "tokens": self.tokens}
        if len(means) > 1:
            figures["terms"] = means
        if self.drawn is not None:
            figures["losses"] = {}
            for n, name in enumerate(self.sets):
                own = zip(self.weights, self.set_totals[:, n].tolist(), self.set_counts[:, n].tolist(), strict=True)
                if found := {term: total / count for term, total, count in own if count}:
                    figures["losses"][name] = self._weighted(found)
            figures["samples"] = dict(zip(self.sets, map(int, self.drawn), strict=True))
        self._begin()
        return figures

    def _weighted(self, means: Mapping[str, float]) -> float:
        return float(sum(self.weights[name] * mean for name, mean in means.items()))

    def get_state(self) -> dict[str, Any]:
        """The sums, in a form that JSON stores without rounding."""
        arrays: dict[str, np.ndarray] = {"totals": self.totals, "counts": self.counts}
        arrays |= {"set_totals": self.set_totals, "set_counts": self.set_counts}
        return {"tokens": self.tokens} | {name: array.tolist() for name, array in arrays.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from saved sums, also from those of the version that had a single term."""
        if "loss" in state:
            state = {
                "tokens": state["tokens"],
                "totals": [state["loss"]],
                "counts": [state["tokens"]],
                "set_totals": [state["set_loss"]],
                "set_counts": [state["set_tokens"]],
            }
        self.tokens = state["tokens"]
        self.totals, self.counts = np.array(state["totals"]), np.array(state["counts"])
        self.set_totals, self.set_counts = np.array(state["set_totals"]), np.array(state["set_counts"])
