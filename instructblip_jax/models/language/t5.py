"""T5 v1.1 / FlanT5 encoder-decoder: RMS pre-norm, gated feed-forward, relative-position bias, no other bias."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.layers import kv_cache, stack
from instructblip_jax.models.layers.attention import Attention, attend, causal_bias, mask_bias
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.kv_cache import Cache
from instructblip_jax.models.layers.primitives import ACTIVATIONS, embedding, linear, parameter, rms_norm
from instructblip_jax.models.layers.relative_bias import relative_bias
from instructblip_jax.sharding import residual, whole


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes; the defaults are Hugging Face's class defaults. ``activation`` is that of the feed-forward's gate.

    ``scale_outputs``: multiply the decoder output by d_model ** -0.5, as models trained with tied embeddings do.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    activation: str = "gelu"
    scale_outputs: bool = False
    decoder_start_token_id: int = 0
    pad_token_id: int = 0
    eos_token_id: int | tuple[int, ...] = 1

    linears: ClassVar[Mapping[str, str]] = {
        "q": "q",
        "k": "k",
        "v": "v",
        "o": "o",
        "wi_0": "gate",
        "wi_1": "up",
        "wo": "down",
    }
    """Hugging Face's name of each linear layer of a block -> ours."""

    @property
    def width(self) -> int:
        """Embedding width D."""
        return self.d_model

    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none", int8: Int8 = False) -> "T5":
        """Make the module; ``int8`` stores its matrices in one byte per weight."""
        return T5(self, dtype=dtype, rngs=rngs, remat=remat, int8=int8)


class GatedFeedForward(nnx.Module):
    """Pre-norm gated feed-forward with residual: ``x + down(act(gate h) * up h)``, where h is the normed x."""

    def __init__(self, config: T5Config, *, int8: Int8 = False, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner = config.d_model, config.d_ff
        self.activation = ACTIVATIONS[config.activation]
        self.norm = rms_norm(width, config.layer_norm_epsilon, dtype=dtype, rngs=rngs)
        self.gate = linear(width, inner, ("embed", "mlp"), bias=False, int8=int8, dtype=dtype, rngs=rngs)
        self.up = linear(width, inner, ("embed", "mlp"), bias=False, int8=int8, dtype=dtype, rngs=rngs)
        self.down = linear(inner, width, ("mlp", "embed"), bias=False, int8=int8, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = whole(self.norm(x))
        gate, up = checkpoint_name(self.gate(h), "gate"), checkpoint_name(self.up(h), "up")
        return x + self.down(self.activation(gate) * up)


class NormedAttention(nnx.Module):
    """Pre-norm attention without scale and bias, with residual."""

    def __init__(self, config: T5Config, *, int8: Int8 = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = rms_norm(config.d_model, config.layer_norm_epsilon, dtype=dtype, rngs=rngs)
        self.attn = Attention(
            config.d_model, config.num_heads, config.d_kv, bias=False, scale=1.0, int8=int8, dtype=dtype, rngs=rngs
        )

    def over_itself(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        """Self-attention over the whole sequence x [B, T, D]."""
        h = whole(self.norm(x))
        return residual(x + self.attn(h, *self.attn.keys_values(h), bias=bias))

    def over_cache(
        self,
        x: jax.Array,
        cache: Cache | None,
        layer: int | jax.Array,
        index: jax.Array | int,
        bias: jax.Array,
        origin: jax.Array | None,
    ) -> tuple[jax.Array, Cache | None]:
        """Self-attention of x [B, N, T, D] over the cache of ``layer``, which its keys and values enter at ``index``.

        Without a cache x attends to itself. ``origin``: see `kv_cache.part`. Returns the output and the updated cache.
        """
        h = whole(self.norm(x))
        keys, values, cache = kv_cache.extend(cache, layer, *self.attn.keys_values(h), index)
        mixed = attend(self.attn.queries(h), [kv_cache.part(keys, values, bias, origin)])
        return x + self.attn.output(mixed), cache

    def over_context(self, x: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array) -> jax.Array:
        """Cross-attention of x [B, (N,) T, D] to precomputed keys and values [B, H, S, K]."""
        mixed = attend(self.attn.queries(whole(self.norm(x))), [(keys, values, bias)])
        return residual(x + self.attn.output(mixed))


class EncoderBlock(nnx.Module):
    def __init__(self, config: T5Config, *, int8: Int8 = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.self_attention = NormedAttention(config, int8=int8, dtype=dtype, rngs=rngs)
        self.ffn = GatedFeedForward(config, int8=int8, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        return self.ffn(self.self_attention.over_itself(x, bias))


class DecoderBlock(nnx.Module):
    def __init__(self, config: T5Config, *, int8: Int8 = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.self_attention = NormedAttention(config, int8=int8, dtype=dtype, rngs=rngs)
        self.cross_attention = NormedAttention(config, int8=int8, dtype=dtype, rngs=rngs)
        self.ffn = GatedFeedForward(config, int8=int8, dtype=dtype, rngs=rngs)

    def context(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encoder output [B, S, D] -> this layer's cross-attention keys and values, each [B, H, S, K]."""
        return self.cross_attention.attn.keys_values(encoded)


class Side(nnx.Module):
    """Encoder or decoder: a scanned stack, the relative-bias table that all its layers share, a final norm."""

    def __init__(
        self,
        config: T5Config,
        block: Callable[..., nnx.Module],
        layers: int,
        *,
        int8: Int8 = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.layers = stack.build(lambda rngs: block(config, int8=int8, dtype=dtype, rngs=rngs), layers, rngs)
        shape = (config.relative_attention_num_buckets, config.num_heads)
        # std 1: heads with different initial positional preferences learn much faster.
        self.relative = parameter(shape, (None, "heads"), std=1.0, rngs=rngs)
        self.norm = rms_norm(config.d_model, config.layer_norm_epsilon, dtype=dtype, rngs=rngs)


class T5(nnx.Module):
    """Embeddings in, logits out. Real tokens come first in all sequences; masks are int or bool [B, T]."""

    def __init__(self, config: T5Config, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none", int8: Int8 = False):
        self.config, self.dtype, self.remat = config, dtype, remat
        width, vocab = config.d_model, config.vocab_size
        self.shared = embedding(vocab, width, ("vocab", "embed"), std=1.0, dtype=dtype, rngs=rngs)
        self.encoder = Side(config, EncoderBlock, config.num_layers, int8=int8, dtype=dtype, rngs=rngs)
        self.decoder = Side(config, DecoderBlock, config.num_decoder_layers, int8=int8, dtype=dtype, rngs=rngs)
        self.head = linear(
            width, vocab, ("embed", "vocab"), bias=False, int8=int8, dtype=dtype, out_dtype=jnp.float32, rngs=rngs
        )

    def embed(self, ids: jax.Array) -> jax.Array:
        """ids int [B, T] -> [B, T, D]."""
        return self.shared(ids)

    def encode(self, embeds: jax.Array, mask: jax.Array) -> jax.Array:
        """embeds [B, S, D], mask [B, S] -> encoder output [B, S, D]."""
        length = embeds.shape[1]
        bias = self._relative(self.encoder, length, bidirectional=True) + mask_bias(mask)
        x = embeds.astype(self.dtype)
        x, _ = stack.run(self.encoder.layers, x, lambda block, x: (block(x, bias), None), remat=self.remat)
        return self.encoder.norm(x)

    def run_decoder(self, decoder_ids: jax.Array, encoded: jax.Array, mask: jax.Array) -> jax.Array:
        """Teacher forcing: decoder_ids int [B, To], encoder output and mask -> the last layer's output [B, To, D]."""
        length = decoder_ids.shape[1]
        bias = self._relative(self.decoder, length, bidirectional=False) + causal_bias(length)
        context_bias = mask_bias(mask)

        def body(block: DecoderBlock, x: jax.Array) -> tuple[jax.Array, None]:
            x = block.self_attention.over_itself(x, bias)
            x = block.cross_attention.over_context(x, *block.context(encoded), context_bias)
            return block.ffn(x), None

        return stack.run(self.decoder.layers, self.shared(decoder_ids), body, remat=self.remat)[0]

    def prefill(self, embeds: jax.Array, mask: jax.Array) -> dict[str, Any]:
        """Prompts [B, S, D] -> the context of their continuations: "layers", cross-attention keys and values
        [L, B, H, S, K] or a list of L times [B, H, S, K], and "mask" [B, S].

        They are computed once for all decode steps and continuations.
        """
        encoded = self.encode(embeds, mask)

        def body(block: DecoderBlock, x: jax.Array) -> tuple[jax.Array, Cache]:
            return x, dict(zip(("k", "v"), block.context(encoded), strict=True))

        return {"layers": stack.run(self.decoder.layers, jnp.zeros(()), body)[1], "mask": mask}

    def init_cache(self, context: dict[str, Any], rows: int, length: int) -> Cache:
        """Empty KV cache for ``length`` tokens of ``rows`` continuations of each example, see `kv_cache`."""
        return kv_cache.init(context["layers"], rows, length)

    def decode(
        self,
        ids: jax.Array,
        context: dict[str, Any],
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Logits of N continuations of each example: decoder ids int [B, N, T] -> float32 [B, N, T, V].

        Without a cache, ids start at position 0. With a cache, they take the positions from ``index`` on, and the
        updated cache is returned. ``origin``: see `kv_cache.part`.
        """
        length = ids.shape[2] if cache is None else kv_cache.length(cache)
        first = 0 if cache is None else index
        bias = self._relative(self.decoder, length, first=first, rows=ids.shape[2], bidirectional=False)
        bias = bias + kv_cache.causal(ids.shape[2], cache, index)
        context_bias = mask_bias(context["mask"])[:, None]  # [B, 1, 1, 1, S]

        def body(block: DecoderBlock, carry: Any, layer: int | jax.Array, prompt: Cache) -> tuple[Any, None]:
            x, cache = carry
            x, cache = block.self_attention.over_cache(residual(x), cache, layer, index, bias, origin)
            x = block.cross_attention.over_context(x, prompt["k"], prompt["v"], context_bias)
            return (block.ffn(x), cache), None

        layers = stack.numbers(self.decoder.layers)
        (x, cache), _ = stack.run(self.decoder.layers, (self.shared(ids), cache), body, layers, context["layers"])
        return self.logits(x), cache

    def _relative(
        self,
        side: Side,
        length: int,
        *,
        first: jax.Array | int = 0,
        rows: int | None = None,
        bidirectional: bool,
    ) -> jax.Array:
        """Relative bias [1, H, T, S] of ``rows`` queries (default: all) from ``first`` on over ``length`` keys."""
        return relative_bias(
            side.relative[...],
            length if rows is None else rows,
            length,
            first=first,
            bidirectional=bidirectional,
            max_distance=self.config.relative_attention_max_distance,
        )

    def logits(self, x: jax.Array) -> jax.Array:
        """The decoder's last layer's output [..., T, D] -> logits float32 [..., T, V]."""
        x = self.decoder.norm(x)
        if self.config.scale_outputs:
            x = x * self.config.d_model**-0.5
        return self.head(x)
