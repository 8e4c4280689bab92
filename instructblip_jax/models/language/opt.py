"""OPT (arXiv 2205.01068), the language model of some BLIP-2 checkpoints: pre-norm, learned positions, ReLU."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.language.causal import CausalLM
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import Attention, attend
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.primitives import ACTIVATIONS, embedding, layer_norm, linear
from instructblip_jax.sharding import residual, whole

OFFSET = 2
"""Position p has row p + 2 of the table."""


@dataclasses.dataclass(frozen=True)
class OptConfig:
    """Sizes; the defaults are Hugging Face's class defaults. The output head is the embedding table."""

    vocab_size: int = 50272
    hidden_size: int = 768
    ffn_dim: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 2048
    activation_function: str = "relu"
    pad_token_id: int = 1
    eos_token_id: int | tuple[int, ...] = 2

    linears: ClassVar[Mapping[str, str]] = {
        "q_proj": "q",
        "k_proj": "k",
        "v_proj": "v",
        "out_proj": "o",
        "fc1": "up",
        "fc2": "down",
    }
    """Hugging Face's name of each linear layer of a block -> ours."""

    @property
    def width(self) -> int:
        """Embedding width D."""
        return self.hidden_size

    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none", int8: Int8 = False) -> "Opt":
        """Make the module; ``int8`` stores its matrices in one byte per weight."""
        return Opt(self, dtype=dtype, rngs=rngs, remat=remat, int8=int8)


NORM_EPSILON = 1e-5  # not a field of the configuration


class Block(nnx.Module):
    """Implements `causal.CausalBlock`."""

    def __init__(self, config: OptConfig, *, int8: Int8 = False, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner, heads = config.hidden_size, config.ffn_dim, config.num_attention_heads
        self.attn_norm = layer_norm(width, NORM_EPSILON, dtype=dtype, rngs=rngs)
        self.attn = Attention(width, heads, width // heads, int8=int8, dtype=dtype, rngs=rngs)
        self.ffn_norm = layer_norm(width, NORM_EPSILON, dtype=dtype, rngs=rngs)
        self.up = linear(width, inner, ("embed", "mlp"), int8=int8, dtype=dtype, rngs=rngs)
        self.down = linear(inner, width, ("mlp", "embed"), int8=int8, dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation_function]

    def project(self, x: jax.Array, place: None) -> tuple[jax.Array, jax.Array, jax.Array]:
        h = whole(self.attn_norm(x))
        return self.attn.queries(h), *self.attn.keys_values(h)

    def finish(self, x: jax.Array, query: jax.Array, parts: Sequence[tuple]) -> jax.Array:
        x = residual(x + self.attn.output(attend(query, parts)))
        return x + self.down(self.activation(checkpoint_name(self.up(whole(self.ffn_norm(x))), "up")))


class Opt(CausalLM):
    """Implements `causal.CausalLM`."""

    def __init__(self, config: OptConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none", int8: Int8 = False):
        self.config, self.dtype, self.remat = config, dtype, remat
        width = config.hidden_size
        self.tokens = embedding(config.vocab_size, width, ("vocab", "embed"), dtype=dtype, rngs=rngs)
        rows = config.max_position_embeddings + OFFSET
        self.position = embedding(rows, width, (None, "embed"), dtype=dtype, rngs=rngs)
        self.layers = stack.build(
            lambda rngs: Block(config, int8=int8, dtype=dtype, rngs=rngs), config.num_hidden_layers, rngs
        )
        self.norm = layer_norm(width, NORM_EPSILON, dtype=dtype, rngs=rngs)

    def embed(self, ids: jax.Array) -> jax.Array:
        return self.tokens(ids)

    def check_length(self, length: int) -> None:
        most = self.config.max_position_embeddings
        if length > most:
            raise ValueError(
                f"visual prompt, text and answer take {length} positions; this OPT has {most}: shorten the text or "
                "lower max_new_tokens"
            )

    def enter(self, embeds: jax.Array, positions: jax.Array) -> tuple[jax.Array, None]:
        return embeds.astype(self.dtype) + self.position(positions + OFFSET), None

    def logits(self, x: jax.Array) -> jax.Array:
        table = self.tokens.embedding[...].astype(self.dtype)
        return jnp.einsum("...d,vd->...v", self.norm(x), table, preferred_element_type=jnp.float32)
