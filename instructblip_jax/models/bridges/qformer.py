"""Q-Former: BERT layers whose learned queries attend to the image and to the instruction.

InstructBLIP (arXiv 2305.06500) and, without the instruction, BLIP-2 (arXiv 2301.12597). BLIP-2's first stage also runs
the text half alone, and lets it write after the queries (section 3.1, figure 2 of the paper).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.language.bert import LmHead
from instructblip_jax.models.language.causal import without_last
from instructblip_jax.models.layers import kv_cache, stack
from instructblip_jax.models.layers.attention import Part, causal_bias, mask_bias
from instructblip_jax.models.layers.kv_cache import Cache
from instructblip_jax.models.layers.post_norm import AttentionBlock, FeedForward, Masks, Watched, drawn
from instructblip_jax.models.layers.primitives import dropout, embedding, kept, layer_norm
from instructblip_jax.sharding import constrain, residual


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
        cross_attention: AttentionBlock | Watched | None,
        image: jax.Array,
        queries: int,
        bias: jax.Array | None,
        keep: Masks,
    ) -> tuple[jax.Array, Cache]:
        """x [B, Q + Tq, D] -> the same shape, or [B, Q, D] without text or without a feed-forward for it; and the keys
        and values of its self-attention, {"k", "v"} of [B, H, Q + Tq, K].

        ``cross_attention`` is applied from the queries to the image; None in layers that have none.
        """
        keys, values = self.self_attention.attn.keys_values(x)
        x = self.self_attention.over(x, [(keys, values, bias)], keep.get("self_probs"), keep.get("self_out"))
        query, text = x[:, :queries], x[:, queries:]
        if cross_attention is not None:
            query = cross_attention(query, image, None, keep.get("cross_probs"), keep.get("cross_out"))
        query = self.query_ffn(query, keep.get("query_ffn"))
        found = {"k": keys, "v": values}
        if self.text_ffn is None or text.shape[1] == 0:
            return query, found
        return jnp.concatenate([query, self.text_ffn(text, keep.get("text_ffn"))], axis=1), found

    def text(self, x: jax.Array, parts: Sequence[Part], keep: Masks) -> jax.Array:
        """Text without queries [B, (N,) T, D] attends to these keys and values -> the same shape."""
        assert self.text_ffn is not None
        x = self.self_attention.over(x, parts, keep.get("self_probs"), keep.get("self_out"))
        return self.text_ffn(x, keep.get("text_ffn"))


class QFormer(nnx.Module):
    """Queries [Q, D], image tokens [B, P, Dv] and an instruction [B, Tq] -> query outputs [B, Q, D].

    ``remat``: what the backward pass keeps of its layers, a name in `stack.REMAT`. ``writes``: there is a head that
    predicts words.
    """

    def __init__(
        self, config: QFormerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none", writes: bool = False
    ):
        self.config, self.dtype, self.remat = config, dtype, remat
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
        self.head = LmHead(config, dtype=dtype, rngs=rngs) if writes else None

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
        return self._read(queries, image, input_ids, attention_mask, key)[0]

    def look(
        self,
        queries: jax.Array,
        image: jax.Array,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
    ) -> jax.Array:
        """The arguments of `__call__` -> float32 [B, Q, P]: the attention of the queries to the image tokens in the
        last layer that reads them, the mean over its heads."""
        count = queries.shape[0]
        x, bias = self._joined(queries, image, input_ids, attention_mask)
        none = jnp.zeros((image.shape[0], count, image.shape[1]), jnp.float32)

        def group(carry: Any, layers: list[Layer], cross: AttentionBlock | None, *_: Any) -> tuple[Any, list]:
            x, found = carry
            watched = None if cross is None else Watched(cross, found)
            for n, layer in enumerate(layers):
                x, _ = layer(x, None if n else watched, image, count, bias, {})
            return (x, found if watched is None else watched.weights), [None] * len(layers)

        every = self.config.cross_attention_frequency
        return stack.run_groups(self.layers, self.cross_attention, every, (x, none), group)[0][1]

    def read(self, queries: jax.Array, image: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, Cache]:
        """Queries [Q, D] without text, over image tokens [B, P, Dv] -> their outputs [B, Q, D], and their keys and
        values, {"k", "v"} of [L, B, H, Q, K], for the texts that are written after them."""
        return self._read(queries, image, None, None, key, keeps=True)

    def texts(self, ids: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Texts without an image, int [B, T], real tokens first, all of whose tokens see one another -> [B, T, D]."""
        return self._text(ids, mask_bias(mask), None, key)[0]

    def write(self, ids: jax.Array, mask: jax.Array, read: Cache, *, key: jax.Array | None = None) -> jax.Array:
        """Texts int [B, T], real tokens first, after the queries of `read` -> [B, T, D]: each token sees all queries,
        and the tokens up to itself."""
        return self._text(ids, jnp.minimum(causal_bias(ids.shape[1]), mask_bias(mask)), read, key)[0]

    def prefill(self, ids: jax.Array, mask: jax.Array, read: Cache) -> dict[str, Any]:
        """Prompts int [B, T], real tokens first, after the queries of `read` -> the context of their continuations:
        "layers", keys and values of queries and prompt [L, B, H, Q + T, K], and "mask" [B, T].

        The mask leaves out the last real token, which `decode` takes first, as in `causal.CausalLM`.
        """
        bias = jnp.minimum(causal_bias(ids.shape[1]), mask_bias(mask))
        own = self._text(ids, bias, read, None)[1]
        layers = jax.tree.map(lambda *x: jnp.concatenate(x, axis=-2), read, own)
        return {"layers": layers, "mask": without_last(mask)}

    def init_cache(self, context: dict[str, Any], rows: int, length: int) -> Cache:
        """An empty KV cache for ``length`` tokens of ``rows`` continuations of each row of a context.

        Raises ValueError if the prompt and the new tokens together exceed the positions.
        """
        whole, most = context["mask"].shape[1] + length, self.config.max_position_embeddings
        if whole > most:
            raise ValueError(f"{whole} tokens of prompt and answer; the Q-Former has {most} positions")
        return kv_cache.init(context["layers"], rows, length)

    def decode(
        self,
        ids: jax.Array,
        context: dict[str, Any],
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """N continuations of each row, int [B, N, T], over the context of `prefill` -> [B, N, T, D], the updated cache.

        Without a cache they follow the context; with one they take the places from ``index`` on. ``origin``: see
        `kv_cache.part`.
        """
        mask = context["mask"]
        first = jnp.sum(mask.astype(jnp.int32), axis=1)[:, None, None]
        x = self._embed(ids, first + index + jnp.arange(ids.shape[2]))
        queries = jax.tree.leaves(context["layers"])[0].shape[-2] - mask.shape[1]
        seen = mask_bias(jnp.pad(mask, ((0, 0), (queries, 0)), constant_values=True))[:, None]  # [B, 1, 1, 1, Q + T]
        own_bias = kv_cache.causal(ids.shape[2], cache, index)

        def body(layer: Layer, carry: Any, number: int | jax.Array, before: Cache) -> tuple[Any, None]:
            x, cache = carry
            x = residual(x)
            keys, values = layer.self_attention.attn.keys_values(x)
            keys, values, cache = kv_cache.extend(cache, number, keys, values, index)
            parts = [(before["k"], before["v"], seen), kv_cache.part(keys, values, own_bias, origin)]
            return (layer.text(x, parts, {}), cache), None

        (x, cache), _ = stack.run(self.layers, (x, cache), body, stack.numbers(self.layers), context["layers"])
        return x, cache

    def logits(self, x: jax.Array) -> jax.Array:
        """States of texts [..., T, D] -> float32 [..., T, V], by the head."""
        assert self.head is not None
        return self.head(x, self.word)

    def _embed(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        return self.norm(self.word(ids) + self.position(positions))

    def _check_text(self, length: int) -> None:
        config = self.config
        if not config.use_text:
            raise ValueError("qformer_input_ids given, but this checkpoint's Q-Former takes no text (BLIP-2)")
        if length > config.max_position_embeddings:
            raise ValueError(
                f"qformer_input_ids: {length} tokens; the Q-Former has {config.max_position_embeddings} positions"
            )

    def _text(
        self, ids: jax.Array, bias: jax.Array, before: Cache | None, key: jax.Array | None
    ) -> tuple[jax.Array, Cache]:
        """Texts [B, T] through the layers, over the keys and values ``before`` them if there are any -> [B, T, D], and
        their own keys and values [L, B, H, T, K]."""
        self._check_text(ids.shape[1])
        x = self._embed(ids, jnp.arange(ids.shape[1]))
        masks: Masks = {}
        if key is not None:
            context = 0 if before is None else before["k"].shape[-2]
            x, masks = self._drop(x, key, queries=0, context=context, patches=0)
        x = constrain(x, "batch", None, None)

        def body(layer: Layer, x: jax.Array, keep: Masks, before: Cache | None) -> tuple[jax.Array, Cache]:
            keys, values = layer.self_attention.attn.keys_values(x)
            parts: list[Part] = [] if before is None else [(before["k"], before["v"], None)]
            return layer.text(x, [*parts, (keys, values, bias)], keep), {"k": keys, "v": values}

        return stack.run(self.layers, x, body, masks, before, remat=self.remat)

    def _read(
        self,
        queries: jax.Array,
        image: jax.Array,
        input_ids: jax.Array | None,
        attention_mask: jax.Array | None,
        key: jax.Array | None,
        *,
        keeps: bool = False,
    ) -> tuple[jax.Array, Cache | None]:
        """See `__call__`; with the layers' keys and values if it ``keeps`` them."""
        config, count = self.config, queries.shape[0]
        x, bias = self._joined(queries, image, input_ids, attention_mask)
        masks: Masks = {}
        if key is not None:
            x, masks = self._drop(x, key, queries=count, context=0, patches=image.shape[1])
        cross_masks = {name: masks.pop(name) for name in CROSS if name in masks}
        x = constrain(x, "batch", None, None)

        def group(
            x: jax.Array,
            layers: list[Layer],
            cross_attention: AttentionBlock,
            masks: list[tuple[Masks]],
            cross_masks: Masks,
        ) -> tuple[jax.Array, list[Cache | None]]:
            """A layer with cross-attention and the layers after it, which have none."""
            found = []
            for n, (layer, (keep,)) in enumerate(zip(layers, masks, strict=True)):
                x, own = layer(x, None if n else cross_attention, image, count, bias, keep | cross_masks)
                found.append(own if keeps else None)
            return x, found

        every = config.cross_attention_frequency
        x, layers = stack.run_groups(
            self.layers,
            self.cross_attention,
            every,
            x,
            group,
            masks,
            leader_inputs=cross_masks,
            remat=self.remat,
        )
        return x[:, :count], layers

    def _joined(
        self, queries: jax.Array, image: jax.Array, input_ids: jax.Array | None, attention_mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """The first layer's input [B, Q + Tq, D] before dropout, and the bias of all self-attention."""
        count, batch = queries.shape[0], image.shape[0]
        x = jnp.broadcast_to(queries.astype(self.dtype), (batch, *queries.shape))
        if input_ids is None:
            return self.norm(x), None
        assert attention_mask is not None
        length = input_ids.shape[1]
        self._check_text(length)
        text = self.word(input_ids) + self.position(jnp.arange(length))
        seen = jnp.concatenate([jnp.ones((batch, count), attention_mask.dtype), attention_mask], axis=1)
        return self.norm(jnp.concatenate([x, text], axis=1)), mask_bias(seen)

    def _drop(
        self, x: jax.Array, key: jax.Array, *, queries: int, context: int, patches: int
    ) -> tuple[jax.Array, Masks]:
        """The embeddings [B, Q + T, D] after their dropout, and the masks of the layers.

        ``context``: keys of self-attention that are not among x; ``patches``: those of cross-attention.
        """
        config = self.config
        keys = jax.random.split(key, 1 + config.num_hidden_layers * len(DROPOUTS))
        if config.hidden_dropout_prob > 0:
            keep = kept(keys[:1], config.hidden_dropout_prob, x.shape, ("batch", None, None))
            x = dropout(x, config.hidden_dropout_prob, keep[0])
        batch, both, width = x.shape
        heads = config.num_attention_heads
        shapes = {
            "self_probs": (batch, heads, both, context + both),
            "self_out": (batch, both, width),
            "cross_probs": (batch, heads, queries, patches),
            "cross_out": (batch, queries, width),
            "query_ffn": (batch, queries, width),
            "text_ffn": (batch, both - queries, width),
        }
        every = config.cross_attention_frequency
        apart = keys[1:].reshape(-1, len(DROPOUTS))
        own = {name: apart[::every, n] if name in CROSS else apart[:, n] for n, name in enumerate(DROPOUTS)}
        return x, drawn(own, shapes, config)
