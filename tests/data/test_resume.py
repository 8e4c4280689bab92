"""A run that is far on starts as fast as a new one: nothing is read again to find the place."""

import time

import pytest

from instructblip_jax.data.digits.templates import TEMPLATES
from instructblip_jax.data.loader import WINDOW, training_batches
from instructblip_jax.data.mixture import probabilities

BATCH = 8


@pytest.fixture
def batches(sources, processor):
    shares = probabilities({name: len(source) for name, source in sources.items()})
    lengths = {"instruction_lengths": (40,), "response_lengths": (24,)}
    return lambda: training_batches(sources, shares, processor, TEMPLATES, batch_size=BATCH, seed=5, **lengths)


@pytest.mark.parametrize("examples", [10**6, 10**9])
def test_the_first_batches_after_many_examples_come_within_seconds(batches, examples):
    iterator = batches()
    next(iterator)
    position = iterator.get_state()
    position["next_index"] = number = examples // BATCH
    begun = time.monotonic()
    resumed = batches()
    resumed.set_state(position)
    for _ in range(WINDOW + 1):
        assert next(resumed)["labels"].shape[0] == BATCH
    assert time.monotonic() - begun < 5
    assert resumed.get_state()["next_index"] == number + WINDOW + 1
