"""KOSMOS' decoder: Magneto's sub-layer norms (arXiv 2210.06423), biases everywhere, the embedding as the head.

KOSMOS-1 has xPos (arXiv 2302.14045), the released KOSMOS-2 has sinusoids (arXiv 2306.14824).
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.language.causal import Between, CausalLM
from instructblip_jax.models.layers import rope, stack, xpos
from instructblip_jax.models.layers.attention import Attention, attend
from instructblip_jax.models.layers.primitives import ACTIVATIONS, dropped, embedding, layer_norm, linear
from instructblip_jax.sharding import gathered, residual, whole

POSITIONS = ("xpos", "sinusoidal")
"""The two kinds of positions: as angles of queries and keys, or added to the embeddings."""
OFFSET = 2
"""Position p has the sinusoid of the number p + 2."""
Place = tuple[rope.Angles, rope.Angles] | None
"""Angles of queries and of keys; None if positions are in the embeddings."""


@dataclasses.dataclass(frozen=True)
class MagnetoConfig:
    """Sizes, with Hugging Face's names and class defaults of KOSMOS-2, which are those of both papers except for the
    vocabulary.

    Attributes:
      max_position_embeddings: positions of the longest text in training; xPos is centred in their middle.
      scale_embedding: embeddings, including images', are multiplied by the square root of their width (KOSMOS-2).
      positions: one of `POSITIONS`.
      dropout, activation_dropout: dropout rates in training, of embeddings and each block's output, and after the
        activation. There is no dropout of attention weights, whatever a file says: drawing their masks takes a TPU
        longer than the attention itself.
    """

    vocab_size: int = 65037
    embed_dim: int = 2048
    layers: int = 24
    ffn_dim: int = 8192
    attention_heads: int = 32
    max_position_embeddings: int = 2048
    activation_function: str = "gelu"
    dropout: float = 0.1
    activation_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    scale_embedding: bool = True
    positions: str = "sinusoidal"
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int | tuple[int, ...] = 2

    @property
    def width(self) -> int:
        """Embedding width D."""
        return self.embed_dim

    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none") -> "Magneto":
        """Make the module."""
        return Magneto(self, dtype=dtype, rngs=rngs, remat=remat)


class Block(nnx.Module):
    """Implements `causal.CausalBlock`."""

    def __init__(self, config: MagnetoConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config, width, inner = config, config.embed_dim, config.ffn_dim
        self.attn_norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        heads = config.attention_heads
        self.attn = Attention(width, heads, width // heads, dtype=dtype, rngs=rngs)
        self.mixed_norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        self.ffn_norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        self.up = linear(width, inner, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.inner_norm = layer_norm(inner, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        self.down = linear(inner, width, ("mlp", "embed"), dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation_function]

    def project(self, x: jax.Array, place: Place) -> tuple[jax.Array, jax.Array, jax.Array]:
        h = whole(self.attn_norm(x))
        of_queries, of_keys = place or (None, None)
        return self.attn.queries(h, of_queries), *self.attn.keys_values(h, of_keys)

    def finish(self, x: jax.Array, query: jax.Array, parts: Sequence[tuple], key: jax.Array | None = None) -> jax.Array:
        """See `causal.CausalBlock`; ``key`` enables dropout."""
        config = self.config
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        mixed = attend(query, parts)
        flat = mixed.reshape(*mixed.shape[:-2], -1)
        mixed = self.attn.output(self.mixed_norm(flat).reshape(mixed.shape))
        x = residual(x + dropped(mixed, config.dropout, keys[0]))
        h = self.activation(checkpoint_name(self.up(whole(self.ffn_norm(x))), "up"))
        h = self.down(self.inner_norm(dropped(h, config.activation_dropout, keys[1])))
        return x + dropped(h, config.dropout, keys[2])


class Magneto(CausalLM):
    """Implements `causal.CausalLM`."""

    def __init__(self, config: MagnetoConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none"):
        self.config, self.dtype, self.remat = config, dtype, remat
        width = config.embed_dim
        self.tokens = embedding(config.vocab_size, width, ("vocab", "embed"), std=width**-0.5, dtype=dtype, rngs=rngs)
        self.layers = stack.build(lambda rngs: Block(config, dtype=dtype, rngs=rngs), config.layers, rngs)
        self.norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)

    def embed(self, ids: jax.Array) -> jax.Array:
        return self.tokens(ids)

    def enter(self, embeds: jax.Array, positions: jax.Array) -> tuple[jax.Array, Place]:
        config = self.config
        x = embeds.astype(jnp.float32)
        if config.scale_embedding:
            x = x * math.sqrt(config.embed_dim)
        if config.positions == "sinusoidal":
            return (x + sinusoids(positions, config.embed_dim)).astype(self.dtype), None
        size = config.embed_dim // config.attention_heads
        return x.astype(self.dtype), xpos.angles(positions, size, config.max_position_embeddings // 2)

    def run(
        self, embeds: jax.Array, mask: jax.Array, between: Between | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """See `causal.CausalLM`; ``key`` enables dropout."""
        if key is None:
            return super().run(embeds, mask, between)
        x, place, bias = self._begin(embeds, mask)
        own, key = jax.random.split(key)
        x = dropped(x, self.config.dropout, own)

        def body(block: Block, x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            query, keys, values = block.project(x, place)
            return block.finish(x, query, [(keys, values, bias)], key), None

        # A layer draws its own masks: those of all layers together would take much memory.
        keys = jax.random.split(key, stack.depth(self.layers))
        return self._through(between, x, body, keys, remat=self.remat)[0]

    def logits(self, x: jax.Array) -> jax.Array:
        table = gathered(self.tokens.embedding[...].astype(self.dtype), "vocab", "embed")
        return jnp.einsum("...d,vd->...v", self.norm(x), table, preferred_element_type=jnp.float32)


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
    """positions int [..., T] -> float32 [..., T, width]: sines of all frequencies, then their cosines, 10000 ^ -(k /
    (width / 2 - 1)) for k from 0 (arXiv 1706.03762, as fairseq has it)."""
    half = width // 2
    frequency = jnp.exp(jnp.arange(half, dtype=jnp.float32) * -(math.log(10000.0) / (half - 1)))
    angle = (positions + OFFSET)[..., None].astype(jnp.float32) * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
