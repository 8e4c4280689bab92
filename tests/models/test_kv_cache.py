"""The cache of keys and values, and beams that read their ancestors' rows of it in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructblip_jax.models.layers import kv_cache
from instructblip_jax.models.layers.attention import attend, causal_bias

BATCH, ROWS, GROUPS, SIZE, ROOM, LAYERS = 2, 3, 2, 4, 5, 2


@pytest.fixture(params=["stack", "list"])
def cache(request):
    keys = jnp.zeros((LAYERS, BATCH, GROUPS, 7, SIZE))
    stacked = {"k": keys, "v": keys}
    context = stacked if request.param == "stack" else [{"k": x, "v": x} for x in keys]
    return kv_cache.init(context, ROWS, ROOM)


def random(*shape, seed):
    return jax.random.normal(jax.random.key(seed), shape)


def test_new_keys_stand_at_their_layer_and_position_alone(cache):
    assert kv_cache.length(cache) == ROOM
    new = random(BATCH, ROWS, GROUPS, 1, SIZE, seed=1)
    keys, values, after = kv_cache.extend(cache, 1, new, -new, 3)
    np.testing.assert_array_equal(keys[:, :, :, 3], new[..., 0, :].swapaxes(1, 2))
    np.testing.assert_array_equal(values, -keys)
    assert not keys[:, :, :, [0, 1, 2, 4]].any()
    layers = [x["k"] for x in after] if isinstance(after, list) else after["k"]
    np.testing.assert_array_equal(layers[1], keys)
    assert not layers[0].any()


def test_a_beam_reads_the_row_of_its_ancestor():
    """The same as attending to a cache whose rows were moved, position by position."""
    keys, values = (random(BATCH, GROUPS, ROWS, ROOM, SIZE, seed=n) for n in (1, 2))
    query = random(BATCH, ROWS, 1, 4, SIZE, seed=3)
    bias = causal_bias(ROOM)[:, :, 3:4] + random(1, 4, 1, ROOM, seed=4)  # four positions are written
    origin = jnp.array(np.random.default_rng(0).integers(0, ROWS, (BATCH, ROWS, ROOM)))
    got = attend(query, [kv_cache.part(keys, values, bias, origin)])

    def moved(x):
        return jnp.take_along_axis(x, origin[:, None, :, :, None], axis=2)

    want = attend(query, [kv_cache.part(moved(keys), moved(values), bias, None)])
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.abs(got - attend(query, [kv_cache.part(keys, values, bias, None)])).max() > 0.1
