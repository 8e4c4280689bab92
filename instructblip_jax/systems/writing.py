"""Base of systems whose BERT decoder attends to the states of an image, or of a question read with an image."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack, LmHead, Writer
from instructblip_jax.objectives.lm import IGNORE
from instructblip_jax.sharding import constrain
from instructblip_jax.systems.picture_text import PictureTextSystem, split
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.protocol import Batch, Context, Media


class Decoder(nnx.Module):
    """Embeddings, causal layers and head."""

    def __init__(self, config: BertConfig, *, dtype: Any, rngs: nnx.Rngs, remat: str):
        self.embeddings = BertEmbeddings(config, dtype=dtype, rngs=rngs)
        layers = config.num_hidden_layers
        self.layers = BertStack(config, layers, cross=True, dtype=dtype, rngs=rngs, remat=remat)
        self.head = LmHead(config, dtype=dtype, rngs=rngs)

    @property
    def writer(self) -> Writer:
        """The parts as a decoder."""
        return Writer(self.embeddings, self.layers, self.head)


class WritingSystem(PictureTextSystem):
    """See the module; a subclass has a `writer`, and defines its context."""

    @property
    def writer(self) -> Writer:
        """The decoder."""
        raise NotImplementedError

    @in_layout_of("trained")
    def init_cache(self, context: Context, rows: int, length: int) -> Any:
        """See `protocol.Answers`."""
        return self.writer.init_cache(context, rows, length)

    @in_layout_of("trained")
    def decode(
        self,
        ids: jax.Array,
        context: Context,
        cache: Any = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """See `protocol.Answers`."""
        return self.writer.decode(ids, context, cache, index, origin)

    def to_logits(self, hidden: jax.Array) -> jax.Array:
        """States [B, T, D] -> float32 [B, T, V]."""
        return constrain(self.writer.logits(hidden), "batch", None, "vocab")


class AnsweringSystem(WritingSystem):
    """Question answering: the question is read with the image, and the decoder attends to the question's states.

    A batch's "input_ids" are the question, its "labels" [B, To] the answer. The decoder starts with
    ``config.start_id``.
    """

    def question(self, media: Media, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """States [B, T, D] of a question read with its image, and their mask int [B, T]."""
        raise NotImplementedError

    @in_layout_of("trained")
    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, To, V] at each label; the decoder's input is the start token and the labels shifted right."""
        return self.to_logits(self.written(self.encode(batch), batch, key))

    def written(self, media: Media, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The decoder's last states at each label, [B, To, D]."""
        keys, labels, config = split(key, 2), batch["labels"], self.config
        states, mask = self.question(media, batch, keys[0])
        previous = jnp.where(labels[:, :-1] == IGNORE, config.pad_id, labels[:, :-1])
        start = jnp.full((labels.shape[0], 1), config.start_id, labels.dtype)
        ids = jnp.concatenate([start, previous], axis=1)
        return self.writer.hidden(ids, jnp.ones_like(ids), states, mask, key=keys[1])

    @in_layout_of("trained")
    def prefill(self, media: Media, batch: Batch) -> Context:
        """See `protocol.Answers`."""
        states, mask = self.question(media, batch)
        ids = jnp.full((states.shape[0], 1), self.config.start_id, jnp.int32)
        return {"first": ids[:, 0], "ids": ids, **self.writer.prefill(ids, jnp.ones_like(ids), states, mask)}
