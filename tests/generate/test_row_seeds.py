"""Seeds of rows: a row's samples are its own, whatever batch it stands in."""

import families
import numpy as np
import pytest

import instructblip_jax as ib

WRITTEN = [
    [87, 86, 200, 142, 315, 206, 76, 283],
    [209, 160, 105, 105, 144, 266, 105, 105],
    [209, 206, 79, 21, 245, 62, 29, 304],
    [52, 261, 15, 245, 315, 138, 226, 8],
]
"""Samples of the version before this one."""


@pytest.mark.parametrize("beams", [1, 2])
def test_a_row_with_a_seed_of_its_own_draws_the_same_in_any_batch(beams):
    model, batch = families.model("instructblip"), families.prompts("instructblip", 6)
    draw = {"do_sample": True, "max_new_tokens": 8, "min_new_tokens": 8, "num_return_sequences": 2}
    draw |= {"num_beams": beams, "top_p": 0.9, "repetition_penalty": 1.1}
    seeds = np.array([3, 5, 3, 2**32 - 1], np.uint32)
    whole = ib.generate_ids(model, batch, seed=seeds, **draw).reshape(4, 2, 8)
    order = np.array([2, 3, 1, 1])  # other neighbours, and a row that fills the batch
    other = ib.generate_ids(model, {key: x[order] for key, x in batch.items()}, seed=seeds[order], **draw)
    np.testing.assert_array_equal(other.reshape(4, 2, 8), whole[order])
    reseeded = ib.generate_ids(model, batch, seed=seeds + np.uint32(1), **draw).reshape(4, 2, 8)
    assert (reseeded != whole).any(axis=(1, 2)).all()


def test_one_seed_for_a_batch_draws_as_it_did_before_rows_had_seeds():
    model, batch = families.model("instructblip"), families.prompts("instructblip", 5)
    ids = ib.generate_ids(model, batch, seed=1, do_sample=True, max_new_tokens=8, min_new_tokens=8)
    assert ids.tolist() == WRITTEN
