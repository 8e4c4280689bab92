"""ALBEF that answers questions (arXiv 2107.07651, section 5): a decoder reads the states of question and picture."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack, LmHead, Writer
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.objectives.lm import IGNORE
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import Layout, constrain
from instructblip_jax.systems.albef import ENCODER, AlbefConfig, AlbefSystem, distilled, first, split, text_shapes
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.protocol import Batch, Context, Media, Memory, Shapes


@dataclasses.dataclass(frozen=True)
class AlbefAnswerConfig(AlbefConfig):
    """Question answering: the term "lm" is the sum over an answer's tokens, averaged over answers."""

    label_keys: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def copied(self) -> tuple[str, ...]:
        """See `AlbefConfig`."""
        return (*ENCODER, "decoder")

    @property
    def decoder(self) -> BertConfig:
        """The sizes of the answer decoder, which reads the states of the question."""
        layers = self.text.num_hidden_layers - self.fusion_layer
        return dataclasses.replace(self.text, num_hidden_layers=layers, encoder_hidden_size=self.text.hidden_size)

    @property
    def system(self) -> type["AlbefAnswers"]:
        """See `AlbefConfig`."""
        return AlbefAnswers

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`: the prompt is the question, the response answer and [SEP]."""
        labels = {"labels": response} if training else {}
        return self.pictures(rows) | text_shapes(rows, input_ids=prompt, **labels)


class AnswerDecoder(nnx.Module):
    """Embeddings, layers and head of its own; it begins with [CLS]."""

    def __init__(self, config: BertConfig, *, dtype: Any, rngs: nnx.Rngs, remat: str):
        self.embeddings = BertEmbeddings(config, dtype=dtype, rngs=rngs)
        layers = config.num_hidden_layers
        self.layers = BertStack(config, layers, cross=True, dtype=dtype, rngs=rngs, remat=remat)
        self.head = LmHead(config, dtype=dtype, rngs=rngs)

    @property
    def writer(self) -> Writer:
        """Its parts as a decoder."""
        return Writer(self.embeddings, self.layers, self.head)


class AlbefAnswers(AlbefSystem):
    """See the module."""

    config: AlbefAnswerConfig

    def __init__(self, config: AlbefAnswerConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, layout=layout, remat=remat)
        self.decoder = AnswerDecoder(config.decoder, dtype=dtype, rngs=rngs, remat=remat)

    @in_layout_of("trained")
    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, To, V] at each label; the decoder reads [CLS] and the labels shifted right."""
        return self._written(self.encode(batch), batch, key)

    def _question(self, media: Media, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """States [B, T, D] of a question that was read with its picture, and their mask int [B, T]."""
        mask, ids = first(batch)
        keys = split(key, 2)
        return self.fusion(self.read(ids, mask, keys[0]), mask_bias(mask), media["image"], key=keys[1]), mask

    def _written(self, media: Media, batch: Batch, key: jax.Array | None) -> jax.Array:
        keys, labels, config = split(key, 2), batch["labels"], self.config
        states, mask = self._question(media, batch, keys[0])
        previous = jnp.where(labels[:, :-1] == IGNORE, config.pad_id, labels[:, :-1])
        start = jnp.full((labels.shape[0], 1), config.cls_id, labels.dtype)
        ids = jnp.concatenate([start, previous], axis=1)
        writer = self.decoder.writer
        hidden = writer.hidden(ids, jnp.ones_like(ids), states, mask, key=keys[1])
        return constrain(writer.logits(hidden), "batch", None, "vocab")

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "lm": the sum of each row's tokens, with momentum distillation where there is a copy."""
        keys = split(key, 2)
        logits = self._written(self.encode(batch), batch, keys[0])
        taught = None
        if memory:
            teacher = self.teacher(memory)
            taught = teacher._written(teacher.encode(batch), batch, keys[1])
        sums, tokens = distilled(logits, batch["labels"], taught, self.alpha(step))
        return {"lm": Term(sums, jnp.minimum(tokens, 1.0))}, memory

    @in_layout_of("trained")
    def prefill(self, media: Media, batch: Batch) -> Context:
        """See `protocol.Answers`."""
        states, mask = self._question(media, batch)
        ids = jnp.full((states.shape[0], 1), self.config.cls_id, jnp.int32)
        return {"first": ids[:, 0], "ids": ids, **self.decoder.writer.prefill(ids, jnp.ones_like(ids), states, mask)}

    @in_layout_of("trained")
    def init_cache(self, context: Context, rows: int, length: int) -> Any:
        """See `protocol.Answers`."""
        return self.decoder.writer.init_cache(context, rows, length)

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
        return self.decoder.writer.decode(ids, context, cache, index, origin)
