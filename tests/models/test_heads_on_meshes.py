"""Heads over a vocabulary whose rows and widths are both in pieces: their gradients are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.language.bert import BertConfig, LmHead
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.layers.primitives import embedding
from instructblip_jax.sharding import partition_spec

WORDS, WIDTH = 30, 32  # the mesh divides both; at width 16 XLA's bug does not show


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.word = embedding(WORDS, WIDTH, ("vocab", "embed"), dtype=jnp.float32, rngs=rngs)
        self.head = LmHead(BertConfig(vocab_size=WORDS, hidden_size=WIDTH), dtype=jnp.float32, rngs=rngs)

    def logits(self, x):
        return self.head(x, self.word)


SMALL = {"vocab_size": WORDS, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS = {
    "bert": Tied,
    "opt": OptConfig(hidden_size=WIDTH, ffn_dim=24, max_position_embeddings=8, **SMALL),
    "llama": LlamaConfig(hidden_size=WIDTH, intermediate_size=24, **SMALL),
    "t5": T5Config(vocab_size=WORDS, d_model=WIDTH, d_kv=8, d_ff=24, num_heads=2, num_layers=1, num_decoder_layers=1),
}


def made(kind):
    model = MODELS[kind]
    if kind == "bert":
        return model(nnx.Rngs(0))
    return model.build(dtype=jnp.float32, rngs=nnx.Rngs(0), remat="none", int8=False)


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_do_not_depend_on_the_mesh(kind):
    graph, state = nnx.split(made(kind))
    x = jax.random.normal(jax.random.key(1), (8, 5, WIDTH))
    ids = jax.random.randint(jax.random.key(2), (8, 5, 1), 0, WORDS)

    def loss(x, state):
        logits = nnx.merge(graph, state).logits(x)
        return (jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, ids, -1)[..., 0]).sum()

    want = jax.jit(jax.grad(loss, (0, 1)))(x, state)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)

    def put(value, axes):
        return jax.device_put(value, NamedSharding(mesh, partition_spec(axes, value.shape, mesh, "sharded")))

    split = jax.tree.map(
        lambda v: v.replace(put(v[...], v.get_metadata()["axes"])),
        state,
        is_leaf=lambda v: isinstance(v, nnx.Variable),
    )
    with jax.set_mesh(mesh):
        got = jax.jit(jax.grad(loss, (0, 1)))(put(x, ("batch", None, None)), split)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
