"""The batches of several groups of sets, one of each per step."""

from collections.abc import Mapping
from typing import Any

import grain

from instructblip_jax.train.groups import joined

TOLD = ("uid", "passed")
"""Lists in a batch that stay on the host."""


class Together:
    """Batches of all groups as one (`train.groups.joined`); its position in the data is that of each group.

    ``batches``: group -> its batches, and the index of its first set among those of all groups, which is added to its
    rows' "set".
    """

    def __init__(self, batches: Mapping[str, tuple[grain.DatasetIterator, int]]):
        self.batches = dict(batches)

    def __next__(self) -> dict[str, Any]:
        told: dict[str, list[str]] = {key: [] for key in TOLD}
        arrays: dict[str, dict[str, Any]] = {}
        for name, (batches, first) in self.batches.items():
            batch = next(batches)
            for key, found in told.items():
                found += batch.pop(key)
            arrays[name] = batch | {"set": batch["set"] + first}
        return joined(arrays) | told

    def get_state(self) -> dict[str, Any]:
        """The position of each group's batches."""
        return {name: batches.get_state() for name, (batches, _) in self.batches.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `get_state`."""
        for name, (batches, _) in self.batches.items():
            batches.set_state(state[name])
