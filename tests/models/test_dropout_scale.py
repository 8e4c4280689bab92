"""Dropout keeps the mean: what is kept is enlarged by as much as is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructblip_jax.models.layers.primitives import dropout, kept

COUNT = 200_000


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_share_is_zero_and_the_rest_is_larger(rate, dtype):
    x = jnp.ones((COUNT,), dtype)
    out = dropout(x, rate, kept(jax.random.key(0)[None], rate, x.shape, (None,))[0])
    assert out.dtype == x.dtype
    got = np.asarray(out, np.float32)
    deviation = (rate * (1 - rate) / COUNT) ** 0.5
    assert abs((got == 0).mean() - rate) < 4 * deviation
    values = np.unique(got[got != 0])
    np.testing.assert_allclose(values, [1 / (1 - rate)], rtol=1e-6 if dtype == "float32" else 2**-8)
    assert abs(got.mean() - 1) < 4 * deviation / (1 - rate) + (0 if dtype == "float32" else 2**-8)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 1e-4])
def test_masks_of_all_layers_are_the_bernoulli_draws_of_their_keys(rate):
    keys = jax.random.split(jax.random.key(3), 4)
    want = [jax.random.bernoulli(key, 1.0 - rate, (3, 50, 41)) for key in keys]
    np.testing.assert_array_equal(kept(keys, rate, (3, 50, 41), (None,) * 3), want)


def test_without_a_mask_nothing_changes():
    x = jnp.arange(5.0)
    assert dropout(x, 0.5, None) is x
