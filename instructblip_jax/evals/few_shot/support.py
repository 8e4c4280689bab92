"""The choice of examples: indices of records in a training split, the same on every host."""

import math

import numpy as np

_BLOCK = 64  # numbers drawn at once, whatever the count: a larger count extends a smaller one


def pool(records: int, size: int, seed: int) -> np.ndarray:
    """``size`` indices below ``records``, or all of them (``size`` 0, or more than ``records``): int64 [P],
    ascending."""
    if not 0 < size < records:
        return np.arange(records)
    return np.sort(np.random.default_rng((seed, 0)).choice(records, size, replace=False))


def drawn(own: np.ndarray, question: int, count: int, seed: int) -> np.ndarray:
    """``count`` different records of a pool for the question of this number, int64 [count]; a smaller ``count`` gives
    the first of them."""
    rng = np.random.default_rng((seed, 1, question))
    found: dict[int, None] = {}
    while len(found) < count:
        found |= dict.fromkeys(rng.integers(len(own), size=_BLOCK).tolist())
    return own[list(found)[:count]]


def similar(own: np.ndarray, features: np.ndarray, asked: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` records of a pool whose images are most similar to the question's, the most similar last, int64
    [count] (RICES: retrieval-based in-context example selection, arXiv 2204.14198, section 3.4).

    ``features`` float32 [P, D] of the pool and ``asked`` [D] are unit vectors. Among ties the first one comes last.
    """
    order = np.argsort(-(features @ asked), kind="stable")
    return own[order[:count][::-1]]


def orders(examples: int, count: int, question: int, seed: int) -> list[np.ndarray]:
    """``count`` different orders of ``examples`` items, or all there are; the first is the given order."""
    rng = np.random.default_rng((seed, 2, question))
    found = [tuple(range(examples))]
    while len(found) < min(count, math.factorial(examples)):
        order = tuple(rng.permutation(examples).tolist())
        found += [] if order in found else [order]
    return [np.array(order, np.int64) for order in found]
