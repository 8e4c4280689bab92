"""KOSMOS' decoder: positions, what the published code keeps and this one does not, and dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructblip_jax.models.language.magneto import Magneto, MagnetoConfig
from instructblip_jax.models.layers import rope, xpos

SIZE, LONGEST = 16, 2048
SMALL = MagnetoConfig(
    vocab_size=23,
    embed_dim=16,
    layers=2,
    ffn_dim=24,
    attention_heads=2,
    max_position_embeddings=32,
    dropout=0.0,
    scale_embedding=False,
    positions="xpos",
)


def published(x: np.ndarray, positions: np.ndarray, length: int, *, key: bool) -> np.ndarray:
    """xPos of x [T, K] in float64 as torchscale has it: the centre is the middle of what there is at present, and pairs
    are neighbours."""
    size = x.shape[1]
    pair = np.arange(size // 2)
    zeta = (2 * pair + 0.4 * size) / (1.4 * size)
    scale = zeta ** ((positions[:, None] - -(-length // 2)) / 512)
    angle = positions[:, None] * 10000.0 ** (-pair / (size // 2))
    turned = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angle) * (1 / scale if key else scale)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def halves(x: np.ndarray) -> np.ndarray:
    """Neighbouring channels -> halves, as `rope.rotate` wants them."""
    return np.concatenate([x[:, ::2], x[:, 1::2]], axis=1)


def scores(query: np.ndarray, keys: np.ndarray, places: np.ndarray, dtype) -> np.ndarray:
    """Products of rotated queries and keys [T, K] at these places, which are rounded to ``dtype`` in between."""
    of_queries, of_keys = xpos.angles(jnp.asarray(places), SIZE, LONGEST // 2)
    turned = [
        rope.rotate(jnp.asarray(halves(x), dtype)[:, None], angles)[:, 0]
        for x, angles in ((query, of_queries), (keys, of_keys))
    ]
    return np.asarray(jnp.einsum("tk,sk->ts", *turned, preferred_element_type=jnp.float32))


@pytest.mark.parametrize("places", [np.arange(40), np.arange(LONGEST - 40, LONGEST), np.arange(0, LONGEST, 53)])
def test_a_fixed_centre_is_the_moving_one(places):
    rng = np.random.default_rng(0)
    query, keys = (np.round(rng.standard_normal((len(places), SIZE)) * 64) / 64 for _ in range(2))
    length = int(places[-1]) + 1
    turned = [published(x, places, length, key=key) for x, key in ((query, False), (keys, True))]
    want = np.tril(turned[0] @ turned[1].T)
    later = [published(x, places, length + 99, key=key) for x, key in ((query, False), (keys, True))]
    np.testing.assert_allclose(np.tril(later[0] @ later[1].T), want, atol=1e-9)
    np.testing.assert_allclose(np.tril(scores(query, keys, places, jnp.float32)), want, atol=1e-3)
    # In bfloat16 the powers cost nothing: they are rounded with the channels that they scale, and cancel.
    bound = 2**-6 * np.outer(*(np.linalg.norm(x, axis=1) for x in (query, keys)))
    assert (np.abs(np.tril(scores(query, keys, places, jnp.bfloat16)) - want) <= bound).all()


@pytest.fixture(scope="module")
def decoder() -> Magneto:
    return SMALL.build(dtype=jnp.float32, rngs=nnx.Rngs(0))


def with_rates(decoder: Magneto, **rates: float) -> Magneto:
    """The same decoder with other dropout rates."""
    other = dataclasses.replace(SMALL, **rates).build(dtype=jnp.float32, rngs=nnx.Rngs(1))
    nnx.update(other, nnx.state(decoder))
    return other


@pytest.mark.parametrize("name", ["dropout", "activation_dropout"])
def test_each_rate_drops_where_a_key_is_given(decoder, name):
    x, mask = jax.random.normal(jax.random.key(0), (3, 9, 16)), jnp.ones((3, 9), jnp.int32)
    dropping = with_rates(decoder, **{name: 0.3})
    run = jax.jit(lambda key: dropping.run(x, mask, key=key))
    plain, one, again, other = dropping.run(x, mask), *(run(jax.random.key(n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, plain)
    assert not np.allclose(one, other)
    np.testing.assert_allclose(plain, decoder.run(x, mask), rtol=1e-6, atol=1e-6)


def test_a_key_without_rates_changes_nothing(decoder):
    x, mask = jax.random.normal(jax.random.key(0), (3, 9, 16)), jnp.ones((3, 9), jnp.int32)
    got = decoder.run(x, mask, key=jax.random.key(1))
    np.testing.assert_allclose(got, decoder.run(x, mask), rtol=1e-6, atol=1e-6)
