"""Fit a few static text shapes to a mixture's lengths: every shape is a compiled program, every misfit is padding."""

from collections.abc import Sequence

import numpy as np

Shape = tuple[int, int]
"""Number of tokens of the instruction and of the response."""


def rounded(lengths: np.ndarray) -> np.ndarray:
    """Round lengths up to the next candidates for a separate shape."""
    step = np.select([lengths > 128, lengths > 64, lengths > 16], [32, 16, 8], 4)
    return np.maximum(1, -(-lengths // step)) * step


def assign(lengths: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """For each row of ``lengths`` [N, 2] the index of the cheapest of ``shapes`` that fits it; -1 if none does."""
    sizes = np.asarray(shapes)
    fits = (lengths[:, None, :] <= sizes[None]).all(-1)  # [N, S]
    cost = np.where(fits, sizes.sum(-1), np.iinfo(np.int64).max)
    return np.where(fits.any(-1), cost.argmin(-1), -1)


def fit(lengths: np.ndarray, largest: Shape, count: int) -> list[Shape]:
    """At most ``count`` shapes, ordered by size and including ``largest``, that need little padding for ``lengths``
    [N, 2].

    Greedy: each next shape is the one that saves most padding. Rows that do not fit ``largest`` are left out.
    """
    lengths = lengths[(lengths <= largest).all(-1)]
    candidates = np.unique(np.minimum(rounded(lengths), largest), axis=0)
    # A shape may serve rows of different instructions: try all pairs of lengths that occur, unless there are too many.
    axes = [np.unique(candidates[:, axis]) for axis in (0, 1)]
    if len(axes[0]) * len(axes[1]) <= 1024:
        candidates = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    cost = np.full(len(lengths), sum(largest))
    fits = np.asarray((lengths[:, None, :] <= candidates[None]).all(-1))  # [N, C]
    sizes = candidates.sum(-1)
    shapes = {largest}
    while len(shapes) < count and len(candidates):
        saved = np.where(fits, np.maximum(0, cost[:, None] - sizes), 0).sum(0)
        best = int(saved.argmax())
        if saved[best] == 0:
            break
        shapes.add((int(candidates[best, 0]), int(candidates[best, 1])))
        cost = np.where(fits[:, best], np.minimum(cost, sizes[best]), cost)
    return sorted(shapes, key=lambda shape: (sum(shape), shape))
