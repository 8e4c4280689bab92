"""Q-Former: BERT layers whose learned queries attend to the image and to the instruction.

InstructBLIP (arXiv 2305.06500) and, without the instruction, BLIP-2 (arXiv 2301.12597).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.models.layers.post_norm import AttentionBlock, FeedForward, Masks, drawn
from instructblip_jax.models.layers.primitives import dropout, embedding, kept, layer_norm
from instructblip_jax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class QFormerConfig:
    """Sizes; the defaults are those of the public checkpoints (Hugging Face class defaults).

    ``use_text`` selects InstructBLIP's form: text embeddings, and a separate feed-forward for the text positions.
    """

    vocab_size: int = 30523
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2
    encoder_hidden_size: int = 1408
    use_text: bool = True


DROPOUTS = ("self_probs", "self_out", "cross_probs", "cross_out", "query_ffn", "text_ffn")
"""A layer's dropouts, in the order of their keys: of attention weights, and of the output of each block."""
CROSS = ("cross_probs", "cross_out")
"""Those of cross-attention, which only the first layer of a group has."""


class Layer(nnx.Module):
    """Joint self-attention over queries and text, then a separate feed-forward for each."""

    def __init__(self, config: QFormerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.self_attention = AttentionBlock(config, dtype=dtype, rngs=rngs)
        self.query_ffn = FeedForward(config, dtype=dtype, rngs=rngs)
        self.text_ffn = FeedForward(config, dtype=dtype, rngs=rngs) if config.use_text else None

    def __call__(
        self,
        x: jax.Array,
        cross_attention: AttentionBlock | None,
        image: jax.Array,
        queries: int,
        bias: jax.Array | None,
        keep: Masks,
    ) -> jax.Array:
        """x [B, Q + Tq, D] -> the same shape, or [B, Q, D] without text or without a feed-forward for it.

        ``cross_attention`` is applied from the queries to the image; None in layers that have none.
        """
        x = self.self_attention(x, x, bias, keep.get("self_probs"), keep.get("self_out"))
        query, text = x[:, :queries], x[:, queries:]
        if cross_attention is not None:
            query = cross_attention(query, image, None, keep.get("cross_probs"), keep.get("cross_out"))
        query = self.query_ffn(query, keep.get("query_ffn"))
        if self.text_ffn is None or text.shape[1] == 0:
            return query
        return jnp.concatenate([query, self.text_ffn(text, keep.get("text_ffn"))], axis=1)


class QFormer(nnx.Module):
    """Queries [Q, D], image tokens [B, P, Dv] and an instruction [B, Tq] -> query outputs [B, Q, D]."""

    def __init__(self, config: QFormerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        if config.use_text:
            self.word = embedding(config.vocab_size, config.hidden_size, ("vocab", "embed"), dtype=dtype, rngs=rngs)
            self.position = embedding(
                config.max_position_embeddings, config.hidden_size, (None, "embed"), dtype=dtype, rngs=rngs
            )
        self.norm = layer_norm(config.hidden_size, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        # Only every n-th layer has cross-attention, so these modules form a stack of their own.
        self.layers = stack.build(lambda rngs: Layer(config, dtype=dtype, rngs=rngs), config.num_hidden_layers, rngs)
        self.cross_attention = stack.build(
            lambda rngs: AttentionBlock(config, context_width=config.encoder_hidden_size, dtype=dtype, rngs=rngs),
            -(-config.num_hidden_layers // config.cross_attention_frequency),
            rngs,
        )

    def __call__(
        self,
        queries: jax.Array,
        image: jax.Array,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """queries [Q, D]; image [B, P, Dv]; input_ids and attention_mask int [B, Tq], real tokens first, or None.

        ``key`` enables dropout (training). Without text the sequence consists of the queries alone. Text positions
        start at 0; queries have no positions, but pass through the same norm and dropout. Raises ValueError if the
        text is longer than the position table, or if this Q-Former takes no text (BLIP-2).
        """
        config = self.config
        count, batch = queries.shape[0], image.shape[0]
        x = jnp.broadcast_to(queries.astype(self.dtype), (batch, *queries.shape))
        bias = None
        if input_ids is not None:
            assert attention_mask is not None
            length = input_ids.shape[1]
            if not config.use_text:
                raise ValueError("qformer_input_ids given, but this checkpoint's Q-Former takes no text (BLIP-2)")
            if length > config.max_position_embeddings:
                raise ValueError(
                    f"qformer_input_ids: {length} tokens; the Q-Former has {config.max_position_embeddings} positions"
                )
            text = self.word(input_ids) + self.position(jnp.arange(length))
            x = jnp.concatenate([x, text], axis=1)  # [B, Q + Tq, D]
            seen = jnp.concatenate([jnp.ones((batch, count), attention_mask.dtype), attention_mask], axis=1)
            bias = mask_bias(seen)
        x = self.norm(x)
        masks: Masks = {}
        if key is not None:
            keys = jax.random.split(key, 1 + config.num_hidden_layers * len(DROPOUTS))
            if config.hidden_dropout_prob > 0:
                keep = kept(keys[:1], config.hidden_dropout_prob, x.shape, ("batch", None, None))
                x = dropout(x, config.hidden_dropout_prob, keep[0])
            masks = self._masks(keys[1:].reshape(-1, len(DROPOUTS)), batch, count, x.shape[1] - count, image.shape[1])
        cross_masks = {name: masks.pop(name) for name in CROSS if name in masks}
        x = constrain(x, "batch", None, None)

        def group(
            x: jax.Array, layers: list[Layer], cross_attention: AttentionBlock, masks: Masks, cross_masks: Masks
        ) -> tuple[jax.Array, None]:
            """A layer with cross-attention and the layers after it, which have none."""
            for n, layer in enumerate(layers):
                keep = {name: mask[n] for name, mask in masks.items()} | cross_masks
                x = layer(x, None if n else cross_attention, image, count, bias, keep)
            return x, None

        every = config.cross_attention_frequency
        x, _ = stack.run_groups(
            self.layers, self.cross_attention, every, x, group, inputs=masks, leader_inputs=cross_masks
        )
        return x[:, :count]

    def _masks(self, keys: jax.Array, batch: int, queries: int, text: int, patches: int) -> Masks:
        """Dropout masks, bool [L, B, ...] each, from the layers' keys [L, DROPOUTS]; one a group for `CROSS`."""
        config = self.config
        both, heads, width = queries + text, config.num_attention_heads, config.hidden_size
        shapes = {
            "self_probs": (batch, heads, both, both),
            "self_out": (batch, both, width),
            "cross_probs": (batch, heads, queries, patches),
            "cross_out": (batch, queries, width),
            "query_ffn": (batch, queries, width),
            "text_ffn": (batch, text, width),
        }
        every = config.cross_attention_frequency
        own = {name: keys[::every, n] if name in CROSS else keys[:, n] for n, name in enumerate(DROPOUTS)}
        return drawn(own, shapes, config)
