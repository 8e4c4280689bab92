"""BERT that reads two images at once, as in BLIP's NLVR2 model (arXiv 2201.12086, section 4.5).

The cross-attention of each layer has two sets of weights, one for each image. Their outputs are averaged in the first
layers, and merged by a linear map in the last ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.language.bert import BertConfig, self_attention
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import Attention, attend
from instructblip_jax.models.layers.post_norm import FeedForward, Masks, drawn
from instructblip_jax.models.layers.primitives import dropout, layer_norm, linear
from instructblip_jax.sharding import constrain

DROPOUTS = ("self_probs", "self_out", "first_probs", "second_probs", "cross_out", "ffn")
"""Dropouts of a layer, in the order of their keys."""


class PairedBlock(nnx.Module):
    """Attention to two contexts, then dropout, residual and norm. ``merge``: combine the two by a linear map, otherwise
    by the mean."""

    def __init__(self, config: BertConfig, *, merge: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        width, heads = config.hidden_size, config.num_attention_heads
        self.rate = config.hidden_dropout_prob
        kind: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.first, self.second = (
            Attention(
                width,
                heads,
                width // heads,
                context_width=config.encoder_hidden_size,
                dropout_rate=config.attention_probs_dropout_prob,
                **kind,
            )
            for _ in range(2)
        )
        self.merge = linear(2 * width, width, (None, "embed"), **kind) if merge else None
        self.norm = layer_norm(width, config.layer_norm_eps, **kind)

    def __call__(self, x: jax.Array, contexts: jax.Array, keep: Masks) -> jax.Array:
        """x [B, T, D], contexts [B, 2, S, D'] -> [B, T, D]."""
        found = []
        for n, (attn, name) in enumerate(((self.first, "first_probs"), (self.second, "second_probs"))):
            parts = [(*attn.keys_values(contexts[:, n]), None)]
            found.append(
                attn.output(attend(attn.queries(x), parts, dropout_rate=attn.dropout_rate, keep=keep.get(name)))
            )
        mixed = 0.5 * (found[0] + found[1]) if self.merge is None else self.merge(jnp.concatenate(found, axis=-1))
        return self.norm(x + dropout(mixed, self.rate, keep.get("cross_out")))


class PairedLayer(nnx.Module):
    """Self-attention, attention to two contexts, feed-forward."""

    def __init__(self, self_attention: Any, cross_attention: PairedBlock, ffn: FeedForward):
        self.self_attention, self.cross_attention, self.ffn = self_attention, cross_attention, ffn

    def __call__(self, x: jax.Array, bias: jax.Array, contexts: jax.Array, keep: Masks) -> jax.Array:
        x = self.self_attention(x, x, bias, keep.get("self_probs"), keep.get("self_out"))
        return self.ffn(self.cross_attention(x, contexts, keep), keep.get("ffn"))


class PairedStack(nnx.Module):
    """``layers`` such layers, all with or all without ``merge``. ``remat``: a name in `stack.REMAT`."""

    def __init__(
        self, config: BertConfig, layers: int, *, merge: bool, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none"
    ):
        self.config, self.remat = config, remat
        self.self_attention = self_attention(config, layers, dtype=dtype, rngs=rngs)
        self.cross_attention = stack.build(
            lambda rngs: PairedBlock(config, merge=merge, dtype=dtype, rngs=rngs), layers, rngs
        )
        self.ffn = stack.build(lambda rngs: FeedForward(config, dtype=dtype, rngs=rngs), layers, rngs)

    def __call__(
        self, x: jax.Array, bias: jax.Array, contexts: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """x [B, T, D] with an additive bias [B, 1, 1, T], over contexts [B, 2, S, D'] -> [B, T, D].

        ``key`` enables dropout.
        """
        layers = stack.joined(PairedLayer, self.self_attention, self.cross_attention, self.ffn)
        masks = None if key is None else self._masks(key, x, contexts)
        x = constrain(x, "batch", None, None)
        if not masks:
            return stack.run(layers, x, lambda layer, x: (layer(x, bias, contexts, {}), None), remat=self.remat)[0]
        return stack.run(
            layers, x, lambda layer, x, keep: (layer(x, bias, contexts, keep), None), masks, remat=self.remat
        )[0]

    def _masks(self, key: jax.Array, x: jax.Array, contexts: jax.Array) -> Masks:
        rows, length, width = x.shape
        heads, count, out = self.config.num_attention_heads, stack.depth(self.ffn), (rows, length, width)
        seen = (rows, heads, length, contexts.shape[2])
        shapes = dict.fromkeys(DROPOUTS, out) | {
            "self_probs": (rows, heads, length, length),
            "first_probs": seen,
            "second_probs": seen,
        }
        keys = jax.random.split(key, count * len(DROPOUTS)).reshape(count, -1)
        return drawn({name: keys[:, n] for n, name in enumerate(DROPOUTS)}, shapes, self.config)
