"""Training batches of pictures that are drawn anew at each visit (`config.data.augment`)."""

import numpy as np
import pytest

from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.loader import training_batches
from instructblip_jax.datasets.digits.templates import TEMPLATES
from instructblip_jax.processors.augment import AugmentConfig

LENGTHS = {"instruction_lengths": (40,), "response_lengths": (24,)}
FULL = AugmentConfig(crop=0.5, flip=True, operations=2, magnitude=7)


@pytest.fixture(scope="module")
def batches(sources, processor):
    def make(augment=FULL, seed=3, **options):
        one, drawing = {"count": sources["count"]}, processor.augmenting(augment)
        return training_batches(one, {"count": 1.0}, drawing, TEMPLATES, batch_size=4, seed=seed, **LENGTHS, **options)

    return make


def test_a_resumed_run_sees_the_same_pixels(batches):
    whole, plain = batches(), batches(AugmentConfig())
    wanted = [next(whole) for _ in range(9)]  # some three visits of each of 12 records
    for cut in (1, 4):
        first, second = batches(), batches()
        for _ in range(cut):
            next(first)
        second.set_state(first.get_state())
        for want in wanted[cut:]:
            got = next(second)
            assert got["uid"] == want["uid"]
            np.testing.assert_array_equal(got["pixel_values"], want["pixel_values"])
    visits: dict[str, list[bytes]] = {}
    for want in wanted:
        bare = next(plain)
        assert bare["uid"] == want["uid"]
        np.testing.assert_array_equal(bare["input_ids"], want["input_ids"])
        for uid, pixels in zip(want["uid"], want["pixel_values"], strict=True):
            visits.setdefault(uid, []).append(pixels.tobytes())
    assert {len(seen) for seen in visits.values()} <= {2, 3, 4}
    assert all(len(set(seen)) == len(seen) for seen in visits.values())


def test_hosts_see_their_rows_of_one_batch(batches):
    whole, part, other = batches(), batches(own=np.array([1, 2])), batches(seed=4)
    for _ in range(2):
        np.testing.assert_array_equal(next(part)["pixel_values"], next(whole)["pixel_values"][1:3])
    assert not np.array_equal(next(other)["pixel_values"], next(batches())["pixel_values"])


def test_an_evaluation_draws_nothing(sources, processor):
    options = {"batch_size": 4, "instruction_lengths": (24,)}
    got = next(evaluation_batches(sources["count"], processor.augmenting(FULL), TEMPLATES, **options))
    want = next(evaluation_batches(sources["count"], processor, TEMPLATES, **options))
    np.testing.assert_array_equal(got.media["pixel_values"], want.media["pixel_values"])
