"""LLaMA and its fine-tuned models (Vicuna): RMS norms, rotary positions, SwiGLU, grouped-query attention, no bias."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.language.causal import CausalLM
from instructblip_jax.models.layers import rope, stack
from instructblip_jax.models.layers.attention import Attention, attend
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.primitives import ACTIVATIONS, embedding, linear, rms_norm
from instructblip_jax.sharding import residual, whole


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes; the defaults are Hugging Face's class defaults. 0 means: derived from the other sizes."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 0
    head_dim: int = 0
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    pad_token_id: int = 0
    eos_token_id: int | tuple[int, ...] = 2

    linears: ClassVar[Mapping[str, str]] = {
        "q_proj": "q",
        "k_proj": "k",
        "v_proj": "v",
        "o_proj": "o",
        "gate_proj": "gate",
        "up_proj": "up",
        "down_proj": "down",
    }
    """Hugging Face's name of each linear layer of a block -> ours."""

    @property
    def width(self) -> int:
        """Embedding width D."""
        return self.hidden_size

    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none", int8: Int8 = False) -> "Llama":
        """Make the module; ``int8`` stores its matrices in one byte per weight."""
        return Llama(self, dtype=dtype, rngs=rngs, remat=remat, int8=int8)


class Block(nnx.Module):
    """Implements `causal.CausalBlock`."""

    def __init__(self, config: LlamaConfig, *, int8: Int8 = False, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
        self.attn_norm = rms_norm(width, config.rms_norm_eps, dtype=dtype, rngs=rngs)
        self.attn = Attention(
            width,
            heads,
            config.head_dim or width // heads,
            kv_heads=config.num_key_value_heads or heads,
            bias=False,
            int8=int8,
            dtype=dtype,
            rngs=rngs,
        )
        self.ffn_norm = rms_norm(width, config.rms_norm_eps, dtype=dtype, rngs=rngs)
        self.gate = linear(width, inner, ("embed", "mlp"), bias=False, int8=int8, dtype=dtype, rngs=rngs)
        self.up = linear(width, inner, ("embed", "mlp"), bias=False, int8=int8, dtype=dtype, rngs=rngs)
        self.down = linear(inner, width, ("mlp", "embed"), bias=False, int8=int8, dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.hidden_act]

    def project(self, x: jax.Array, place: rope.Angles) -> tuple[jax.Array, jax.Array, jax.Array]:
        h = whole(self.attn_norm(x))
        keys, values = self.attn.keys_values(h, place)
        return self.attn.queries(h, place), keys, values

    def finish(self, x: jax.Array, query: jax.Array, parts: Sequence[tuple]) -> jax.Array:
        x = residual(x + self.attn.output(attend(query, parts)))
        h = whole(self.ffn_norm(x))
        gate, up = checkpoint_name(self.gate(h), "gate"), checkpoint_name(self.up(h), "up")
        return x + self.down(self.activation(gate) * up)


class Llama(CausalLM):
    """Implements `causal.CausalLM`."""

    def __init__(
        self, config: LlamaConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none", int8: Int8 = False
    ):
        self.config, self.dtype, self.remat = config, dtype, remat
        width, vocab = config.hidden_size, config.vocab_size
        self.tokens = embedding(vocab, width, ("vocab", "embed"), dtype=dtype, rngs=rngs)
        self.layers = stack.build(
            lambda rngs: Block(config, int8=int8, dtype=dtype, rngs=rngs), config.num_hidden_layers, rngs
        )
        self.norm = rms_norm(width, config.rms_norm_eps, dtype=dtype, rngs=rngs)
        self.to_vocab = linear(
            width, vocab, ("embed", "vocab"), bias=False, int8=int8, dtype=dtype, out_dtype=jnp.float32, rngs=rngs
        )

    def embed(self, ids: jax.Array) -> jax.Array:
        return self.tokens(ids)

    def enter(self, embeds: jax.Array, positions: jax.Array) -> tuple[jax.Array, rope.Angles]:
        size = self.config.head_dim or self.config.hidden_size // self.config.num_attention_heads
        return embeds.astype(self.dtype), rope.angles(positions, size, self.config.rope_theta)

    def logits(self, x: jax.Array) -> jax.Array:
        return self.to_vocab(self.norm(x))
