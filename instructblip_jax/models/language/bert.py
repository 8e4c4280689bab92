"""BERT (arXiv 1810.04805) with cross-attention to a picture, as ALBEF and BLIP read it: an encoder, or a writer.

A stack's self-attention, cross-attention and feed-forwards are stacks of their own, so that an encoder and a decoder
can share some of them (BLIP, arXiv 2201.12086, section 3.1). Masks are int or bool [B, T].
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.language.causal import without_last
from instructblip_jax.models.layers import kv_cache, stack
from instructblip_jax.models.layers.attention import causal_bias, mask_bias
from instructblip_jax.models.layers.kv_cache import Cache
from instructblip_jax.models.layers.post_norm import AttentionBlock, FeedForward, Masks, Sizes, Watched, drawn
from instructblip_jax.models.layers.primitives import (
    ACTIVATIONS,
    dropped,
    embedding,
    layer_norm,
    linear,
    parameter,
)
from instructblip_jax.sharding import constrain, gathered, residual

DROPOUTS = ("self_probs", "self_out", "cross_probs", "cross_out", "ffn")
"""A layer's dropouts, in the order of their keys: of attention weights, and of the output of each block."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes; the defaults are those of bert-base-uncased.

    Attributes:
      encoder_hidden_size: width of what cross-attention reads.
      token_types: a row of a table of token types is added to all embeddings (ALBEF), or there is none (BLIP).
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    encoder_hidden_size: int = 768
    token_types: bool = False


class BertEmbeddings(nnx.Module):
    """Tokens and their positions -> vectors, normalised."""

    def __init__(self, config: BertConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config, width = config, config.hidden_size
        self.word = embedding(config.vocab_size, width, ("vocab", "embed"), dtype=dtype, rngs=rngs)
        self.position = embedding(config.max_position_embeddings, width, (None, "embed"), dtype=dtype, rngs=rngs)
        self.token_type = parameter((2, width), (None, "embed"), rngs=rngs) if config.token_types else None
        self.norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)

    def __call__(
        self, ids: jax.Array, positions: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """ids int [..., T] -> [..., T, D]. ``positions``: int [..., T], by default 0 to T - 1; ``key`` enables dropout.

        Raises ValueError where the text is longer than the table of positions.
        """
        length, most = ids.shape[-1], self.config.max_position_embeddings
        if length > most:
            raise ValueError(f"input_ids: {length} tokens; this text model has {most} positions")
        x = self.word(ids) + self.position(jnp.arange(length) if positions is None else positions)
        if self.token_type is not None:
            x = x + self.token_type[...][0].astype(x.dtype)
        return dropped(self.norm(x), self.config.hidden_dropout_prob, key)


class BertLayer(nnx.Module):
    """Self-attention, cross-attention if there is any, feed-forward."""

    def __init__(self, self_attention: AttentionBlock, cross_attention: AttentionBlock | None, ffn: FeedForward):
        self.self_attention, self.cross_attention, self.ffn = self_attention, cross_attention, ffn

    def __call__(
        self, x: jax.Array, bias: jax.Array, context: jax.Array | None, context_bias: jax.Array | None, keep: Masks
    ) -> jax.Array:
        """x [B, T, D] -> [B, T, D]; without a context [B, S, D'] cross-attention is skipped."""
        x = self.self_attention(x, x, bias, keep.get("self_probs"), keep.get("self_out"))
        if context is not None and self.cross_attention is not None:
            x = self.cross_attention(x, context, context_bias, keep.get("cross_probs"), keep.get("cross_out"))
        return self.ffn(x, keep.get("ffn"))


class BertStack(nnx.Module):
    """``layers`` layers, with ``cross`` attention in each or in none.

    ``self_attention`` of its methods: another stack of such blocks, in place of its own. ``remat``: what the backward
    pass keeps, a name in `stack.REMAT`.
    """

    def __init__(
        self, config: BertConfig, layers: int, *, cross: bool, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none"
    ):
        self.config, self.dtype, self.remat = config, dtype, remat
        self.self_attention = self_attention(config, layers, dtype=dtype, rngs=rngs)
        width = config.encoder_hidden_size
        self.cross_attention = (
            stack.build(lambda rngs: AttentionBlock(config, context_width=width, dtype=dtype, rngs=rngs), layers, rngs)
            if cross
            else None
        )
        self.ffn = stack.build(lambda rngs: FeedForward(config, dtype=dtype, rngs=rngs), layers, rngs)

    def _layers(self, other: nnx.Module | None) -> nnx.Module:
        return stack.joined(BertLayer, other or self.self_attention, self.cross_attention, self.ffn)

    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array,
        context: jax.Array | None = None,
        context_bias: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        self_attention: nnx.Module | None = None,
    ) -> jax.Array:
        """x [B, T, D] with an additive bias [B, 1, 1 or T, T], over a context [B, S, D'] or none -> [B, T, D].

        ``key`` enables dropout.
        """
        layers = self._layers(self_attention)
        masks = None if key is None else self.dropouts(key, x, context)

        def body(layer: Any, x: jax.Array, keep: Masks) -> tuple[jax.Array, None]:
            return layer(x, bias, context, context_bias, keep), None

        x = constrain(x, "batch", None, None)
        if not masks:
            return stack.run(layers, x, lambda layer, x: body(layer, x, {}), remat=self.remat)[0]
        return stack.run(layers, x, body, masks, remat=self.remat)[0]

    def look(
        self, x: jax.Array, bias: jax.Array, context: jax.Array, *, self_attention: nnx.Module | None = None
    ) -> jax.Array:
        """The arguments of `__call__` -> float32 [B, T, S]: the attention of x to the context in the last layer, the
        mean over its heads."""

        def body(layer: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, jax.Array], None]:
            cross = Watched(layer.cross_attention, carry[1])
            x = cross(layer.self_attention(carry[0], carry[0], bias), context, None)
            return (layer.ffn(x), cross.weights), None

        none = jnp.zeros((*x.shape[:2], context.shape[1]), jnp.float32)
        return stack.run(self._layers(self_attention), (x, none), body)[0][1]

    def dropouts(self, key: jax.Array, x: jax.Array, context: jax.Array | None) -> Masks:
        """The dropout masks of all layers for x [B, T, D] over a context [B, S, D'], bool [L, ...] by name."""
        rows, length, width = x.shape
        seen = 0 if context is None else context.shape[1]
        heads = self.config.num_attention_heads
        count = stack.depth(self.ffn)
        keys = jax.random.split(key, count * len(DROPOUTS)).reshape(count, -1)
        out = (rows, length, width)
        shapes = {
            "self_probs": (rows, heads, length, length),
            "self_out": out,
            "cross_probs": (rows, heads, length, seen),
            "cross_out": out if seen else (0,),
            "ffn": out,
        }
        return drawn({name: keys[:, n] for n, name in enumerate(DROPOUTS)}, shapes, self.config)

    def prefill(
        self,
        x: jax.Array,
        mask: jax.Array,
        context: jax.Array,
        context_mask: jax.Array | None = None,
        *,
        self_attention: nnx.Module | None = None,
    ) -> dict[str, Any]:
        """Prompts [B, T, D] and what they are about, [B, S, D'] -> the context of their continuations.

        "layers": keys and values of the prompt and of the context, {"k", "v", "context_k", "context_v"} of arrays
        [L, B, H, T or S, K], or a list of L such; "mask" [B, T] without the last real token, which `decode` takes
        first, as `causal.CausalLM` does; "context_mask" [B, S].
        """
        layers = self._layers(self_attention)
        bias = jnp.minimum(causal_bias(x.shape[1]), mask_bias(mask))
        seen = jnp.ones(context.shape[:2], bool) if context_mask is None else context_mask.astype(bool)

        def body(layer: Any, x: jax.Array) -> tuple[jax.Array, Cache]:
            keys, values = layer.self_attention.attn.keys_values(x)
            context_keys, context_values = layer.cross_attention.attn.keys_values(context)
            x = layer.self_attention.over(x, [(keys, values, bias)])
            x = layer.cross_attention.over(x, [(context_keys, context_values, mask_bias(seen))])
            return layer.ffn(x), {"k": keys, "v": values, "context_k": context_keys, "context_v": context_values}

        found = stack.run(layers, constrain(x, "batch", None, None), body)[1]
        return {"layers": found, "mask": without_last(mask), "context_mask": seen}

    def decode(
        self,
        x: jax.Array,
        context: dict[str, Any],
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
        *,
        self_attention: nnx.Module | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """N continuations of each row, [B, N, T, D], over the context of `prefill` -> [B, N, T, D], the updated cache.

        Without a cache they follow the context; with one they take the places from ``index`` on. ``origin``: see
        `kv_cache.part`.
        """
        layers = self._layers(self_attention)
        prompt_bias = mask_bias(context["mask"])[:, None]  # [B, 1, 1, 1, T]
        context_bias = mask_bias(context["context_mask"])[:, None]
        own_bias = kv_cache.causal(x.shape[2], cache, index)

        def body(layer: Any, carry: Any, number: int | jax.Array, prompt: Cache) -> tuple[Any, None]:
            x, cache = carry
            x = residual(x)
            keys, values = layer.self_attention.attn.keys_values(x)
            keys, values, cache = kv_cache.extend(cache, number, keys, values, index)
            own = kv_cache.part(keys, values, own_bias, origin)
            x = layer.self_attention.over(x, [(prompt["k"], prompt["v"], prompt_bias), own])
            x = layer.cross_attention.over(x, [(prompt["context_k"], prompt["context_v"], context_bias)])
            return (layer.ffn(x), cache), None

        (x, cache), _ = stack.run(layers, (x, cache), body, stack.numbers(layers), context["layers"])
        return x, cache


def self_attention(config: BertConfig, layers: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    """The self-attention blocks of ``layers`` layers, as one stack."""
    return stack.build(lambda rngs: AttentionBlock(config, dtype=dtype, rngs=rngs), layers, rngs)


class HeadSizes(Sizes, Protocol):
    """The fields of a configuration that `LmHead` reads."""

    @property
    def vocab_size(self) -> int: ...


class LmHead(nnx.Module):
    """States -> logits over the rows of a table of words, which the embeddings own."""

    def __init__(self, config: HeadSizes, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width = config.hidden_size
        self.dense = linear(width, width, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,)), axes=("vocab",))

    def __call__(self, x: jax.Array, table: nnx.Embed) -> jax.Array:
        """x [..., T, D] -> float32 [..., T, V]."""
        x = self.norm(self.activation(self.dense(x)))
        # With its width in pieces, too, XLA's gradient of the states is wrong on a mesh of three axes.
        words = gathered(table.embedding[...].astype(x.dtype), "vocab", "embed")
        return jnp.einsum("...d,vd->...v", x, words, preferred_element_type=jnp.float32) + self.bias[...]


class Writer(NamedTuple):
    """A decoder: embeddings, layers with cross-attention and a head, of which another model may own some.

    ``self_attention``: blocks that stand in place of the layers' own.
    """

    embeddings: BertEmbeddings
    layers: BertStack
    head: LmHead
    self_attention: nnx.Module | None = None

    def hidden(
        self,
        ids: jax.Array,
        mask: jax.Array,
        context: jax.Array,
        context_mask: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: ids int [B, T], real tokens first, over a context [B, S, D'] -> the last states [B, T, D].

        ``key`` enables dropout.
        """
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        bias = jnp.minimum(causal_bias(ids.shape[1]), mask_bias(mask))
        context_bias = None if context_mask is None else mask_bias(context_mask)
        x = self.embeddings(ids, key=keys[0])
        return self.layers(x, bias, context, context_bias, key=keys[1], self_attention=self.self_attention)

    def look(self, ids: jax.Array, mask: jax.Array, context: jax.Array) -> jax.Array:
        """ids int [B, T], real tokens first, over a context [B, S, D'] -> float32 [B, T, S]; see `BertStack.look`."""
        bias = jnp.minimum(causal_bias(ids.shape[1]), mask_bias(mask))
        return self.layers.look(self.embeddings(ids), bias, context, self_attention=self.self_attention)

    def logits(self, x: jax.Array) -> jax.Array:
        """States [..., T, D] -> float32 [..., T, V]."""
        return self.head(x, self.embeddings.word)

    def prefill(
        self, ids: jax.Array, mask: jax.Array, context: jax.Array, context_mask: jax.Array | None = None
    ) -> dict[str, Any]:
        """Prompts int [B, T], real tokens first -> their context; see `BertStack.prefill`."""
        x = self.embeddings(ids)
        return self.layers.prefill(x, mask, context, context_mask, self_attention=self.self_attention)

    def init_cache(self, context: dict[str, Any], rows: int, length: int) -> Cache:
        """An empty KV cache for ``length`` tokens of ``rows`` continuations of each row.

        Raises ValueError if the prompt and the new tokens together exceed the model's positions.
        """
        most, whole = self.embeddings.config.max_position_embeddings, context["mask"].shape[1] + length
        if whole > most:
            raise ValueError(f"{whole} tokens of prompt and answer; this text model has {most} positions")
        layers = context["layers"]
        own = [_own(layer) for layer in layers] if isinstance(layers, list) else _own(layers)
        return kv_cache.init(own, rows, length)

    def decode(
        self,
        ids: jax.Array,
        context: dict[str, Any],
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """N continuations of each row, int [B, N, T] -> float32 logits [B, N, T, V]; see `protocol.Answers`."""
        first = jnp.sum(context["mask"].astype(jnp.int32), axis=1)[:, None, None]
        x = self.embeddings(ids, first + index + jnp.arange(ids.shape[2]))
        x, cache = self.layers.decode(x, context, cache, index, origin, self_attention=self.self_attention)
        return self.logits(x), cache


def _own(layers: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The keys and values that grow with an answer."""
    return {name: layers[name] for name in ("k", "v")}
