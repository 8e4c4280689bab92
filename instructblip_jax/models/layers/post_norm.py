"""The blocks of BERT and its kin, post-norm: attention or a feed-forward, then dropout, residual and norm."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.attention import Attention, Part, attend, weights
from instructblip_jax.models.layers.primitives import ACTIVATIONS, dropout, kept, layer_norm, linear

Masks = dict[str, jax.Array]
"""Name of a dropout -> where it keeps a value, bool; without a name nothing is dropped there."""


class Sizes(Protocol):
    """The fields of a configuration that the blocks read, under Hugging Face's names."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def hidden_dropout_prob(self) -> float: ...
    @property
    def attention_probs_dropout_prob(self) -> float: ...
    @property
    def layer_norm_eps(self) -> float: ...


class AttentionBlock(nnx.Module):
    """Attention followed by dropout, residual and norm (post-norm, as in BERT)."""

    def __init__(self, config: Sizes, *, context_width: int | None = None, dtype: DTypeLike, rngs: nnx.Rngs):
        width, heads = config.hidden_size, config.num_attention_heads
        rate = config.attention_probs_dropout_prob
        self.rate = config.hidden_dropout_prob
        self.attn = Attention(
            width, heads, width // heads, context_width=context_width, dropout_rate=rate, dtype=dtype, rngs=rngs
        )
        self.norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array,
        bias: jax.Array | None,
        probs_keep: jax.Array | None = None,
        out_keep: jax.Array | None = None,
    ) -> jax.Array:
        """x [B, T, D] attends to the context [B, S, D'] -> [B, T, D]. The last two are dropout masks."""
        return self.over(x, [(*self.attn.keys_values(context), bias)], probs_keep, out_keep)

    def over(
        self,
        x: jax.Array,
        parts: Sequence[Part],
        probs_keep: jax.Array | None = None,
        out_keep: jax.Array | None = None,
    ) -> jax.Array:
        """x [B, (N,) T, D] attends to keys and values that exist already, as `attention.attend` takes them."""
        mixed = attend(self.attn.queries(x), parts, dropout_rate=self.attn.dropout_rate, keep=probs_keep)
        return self.norm(x + dropout(self.attn.output(mixed), self.rate, out_keep))


class Watched:
    """An `AttentionBlock` in a traced function. ``weights`` are those of its last call, their mean over heads: float32
    [B, T, S]."""

    def __init__(self, block: AttentionBlock, weights: jax.Array):
        self.block, self.weights = block, weights

    def __call__(self, x: jax.Array, context: jax.Array, *others: jax.Array | None) -> jax.Array:
        """See `AttentionBlock`."""
        keys, _ = self.block.attn.keys_values(context)
        self.weights = weights(self.block.attn.queries(x), keys, others[0])
        return self.block(x, context, *others)


class FeedForward(nnx.Module):
    """Two dense layers followed by dropout, residual and norm."""

    def __init__(self, config: Sizes, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner = config.hidden_size, config.intermediate_size
        self.rate = config.hidden_dropout_prob
        self.activation = ACTIVATIONS[config.hidden_act]
        self.up = linear(width, inner, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.down = linear(inner, width, ("mlp", "embed"), dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        return self.norm(x + dropout(self.down(self.activation(self.up(x))), self.rate, keep))


def drawn(keys: Mapping[str, jax.Array], shapes: Mapping[str, tuple[int, ...]], config: Sizes) -> Masks:
    """The dropout masks of all layers, bool [L, *shape] each, from a dropout's keys [L].

    A name that ends in "probs" is that of attention weights [B, H, T, S], any other that of a block's output [B, T, D].
    A rate of zero, or an empty shape, has no mask.
    """
    masks = {}
    for name, own in keys.items():
        of_probs = name.endswith("probs")
        rate = config.attention_probs_dropout_prob if of_probs else config.hidden_dropout_prob
        if rate > 0 and 0 not in shapes[name]:
            masks[name] = kept(
                own, rate, shapes[name], ("batch", "heads", None, None) if of_probs else ("batch", None, None)
            )
    return masks
