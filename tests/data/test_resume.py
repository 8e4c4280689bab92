"""A run that is far on starts as a new one does: nothing is read again to find the place."""

import dataclasses

import pytest

from instructblip_jax.data.loader import READ_AHEAD, WINDOW, training_batches
from instructblip_jax.data.mixture import probabilities
from instructblip_jax.datasets.digits.templates import TEMPLATES

BATCH = 8


@dataclasses.dataclass
class Counted:
    """A set that counts the records which are read."""

    source: object
    read: int = 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read += 1
        return self.source[index]


@pytest.mark.parametrize("examples", [10**6, 10**9])
def test_the_first_batches_after_many_examples_are_made_of_a_few_records(sources, processor, examples):
    counted = {name: Counted(source) for name, source in sources.items()}
    shares = probabilities({name: len(source) for name, source in sources.items()})
    lengths = {"instruction_lengths": (40,), "response_lengths": (24,)}
    resumed = training_batches(counted, shares, processor, TEMPLATES, batch_size=BATCH, seed=5, **lengths)
    position = resumed.get_state()
    position["next_index"] = number = examples // BATCH
    resumed.set_state(position)
    for _ in range(WINDOW + 1):
        assert next(resumed)["labels"].shape[0] == BATCH
    assert resumed.get_state()["next_index"] == number + WINDOW + 1
    ahead = WINDOW + 1 + READ_AHEAD.num_threads + READ_AHEAD.prefetch_buffer_size  # batches, whole windows of them
    assert sum(one.read for one in counted.values()) <= BATCH * (ahead + 3 * WINDOW) + len(counted)
