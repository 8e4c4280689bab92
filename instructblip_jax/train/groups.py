"""Steps with several batches, one for each group of sets, represented as one batch."""

from collections.abc import Mapping
from typing import TypeVar

_BETWEEN = "/"
X = TypeVar("X")


def joined(batches: Mapping[str, Mapping[str, X]]) -> dict[str, X]:
    """Group -> batch, as one batch whose keys are "GROUP/KEY"."""
    return {f"{name}{_BETWEEN}{key}": x for name, batch in batches.items() for key, x in batch.items()}


def parted(batch: Mapping[str, X]) -> dict[str, dict[str, X]]:
    """The inverse of `joined`; a batch without groups is the batch of the group ""."""
    found: dict[str, dict[str, X]] = {}
    for name, x in batch.items():
        group, _, key = name.rpartition(_BETWEEN)
        found.setdefault(group, {})[key] = x
    return found


def rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of rows of a step, over all groups. ``shapes``: of a batch's arrays, by key."""
    return sum(next(iter(own.values()))[0] for own in parted(shapes).values())
