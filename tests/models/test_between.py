"""Blocks between the layers of a language model: where they stand, and that cached decoding sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructblip_jax.models.language.causal import Between
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.primitives import linear

LAYERS = 5
SIZES = LlamaConfig(
    vocab_size=19, hidden_size=12, intermediate_size=20, num_hidden_layers=LAYERS, num_attention_heads=2
)


@pytest.fixture(scope="module")
def llama():
    return SIZES.build(dtype=jnp.float32, rngs=nnx.Rngs(0))


def blocks(count):
    return stack.build(
        lambda rngs: linear(12, 12, (None, None), bias=False, dtype=jnp.float32, rngs=rngs), count, nnx.Rngs(1)
    )


def between(every, at, *, inputs=None):
    made = blocks(sum(n % every == at for n in range(LAYERS)))
    scale = lambda own: 1.0 if own is None else own
    return Between(made, every, at, lambda block, x, own: x + jnp.tanh(block(x)) * scale(own), inputs)


def one(stacked, n):
    graph, state = nnx.split(stacked)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[n], nnx.to_pure_dict(state)))


@pytest.mark.parametrize(("every", "at"), [(1, 0), (2, 0), (2, 1), (3, 2), (4, 3), (7, 0), (7, 6)])
def test_a_block_stands_before_its_layer_of_each_group(llama, every, at):
    """Five layers: the last group may be smaller, and have a block or none."""
    own = between(every, at, inputs=jnp.arange(1.0, 1 + sum(n % every == at for n in range(LAYERS))))
    x = jax.random.normal(jax.random.key(3), (2, 6, 12))
    mask = jnp.ones((2, 6), jnp.int32)
    want, place, bias = llama._begin(x, mask)
    for n in range(LAYERS):
        if n % every == at:
            want = own.apply(one(own.blocks, n // every), want, own.inputs[n // every])
        layer = one(llama.layers, n)
        query, keys, values = layer.project(want, place)
        want = layer.finish(want, query, [(keys, values, bias)])
    np.testing.assert_allclose(llama.run(x, mask, own), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("apart", [False, True], ids=["stack", "list"])
@pytest.mark.parametrize("long", [False, True], ids=["loop", "scan"])
def test_prefill_and_decoding_see_the_blocks(llama, apart, long, monkeypatch):
    if long:
        monkeypatch.setattr(stack, "SHORT", 0)
    graph, state = nnx.split(llama)
    model = nnx.merge(graph, state)
    if apart:
        stack.unstack(model, lambda path: False)
    own = between(2, 1)
    ids = jax.random.randint(jax.random.key(4), (2, 9), 0, 19)
    want = llama.logits(llama.run(llama.embed(ids), jnp.ones((2, 9), jnp.int32), own))

    context = model.prefill(model.embed(ids[:, :5]), jnp.ones((2, 5), jnp.int32), own)
    cache = model.init_cache(context, 1, 5)
    got = []
    for step in range(5):
        logits, cache = model.decode(ids[:, None, 4 + step : 5 + step], context, cache, step, between=own)
        got.append(logits[:, 0, 0])
    np.testing.assert_allclose(jnp.stack(got, 1), want[:, 4:], atol=1e-4)
    np.testing.assert_allclose(model.decode(ids[:, None, 4:], context, between=own)[0][:, 0], want[:, 4:], atol=1e-4)
