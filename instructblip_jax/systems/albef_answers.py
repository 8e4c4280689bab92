"""ALBEF for question answering (arXiv 2107.07651, section 5): a decoder reads the states of question and image."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertConfig, Writer
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.albef import ENCODER, AlbefConfig, AlbefSystem, distilled
from instructblip_jax.systems.picture_text import first, split, text_shapes
from instructblip_jax.systems.prefix import in_layout_of, picture_shapes
from instructblip_jax.systems.protocol import Batch, Media, Memory, Shapes
from instructblip_jax.systems.writing import AnsweringSystem, Decoder


@dataclasses.dataclass(frozen=True)
class AlbefAnswerConfig(AlbefConfig):
    """Question answering: the term "lm" is the sum over an answer's tokens, averaged over answers."""

    queries_read_text: ClassVar[bool] = False
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def copied(self) -> tuple[str, ...]:
        """See `AlbefConfig`."""
        return (*ENCODER, "decoder")

    @property
    def decoder(self) -> BertConfig:
        """Sizes of the answer decoder, which attends to the states of the question."""
        layers = self.text.num_hidden_layers - self.fusion_layer
        return dataclasses.replace(self.text, num_hidden_layers=layers, encoder_hidden_size=self.text.hidden_size)

    @property
    def start_id(self) -> int:
        """[CLS]."""
        return self.cls_id

    def system(self) -> type["AlbefAnswers"]:
        """See `PictureTextConfig`."""
        return AlbefAnswers

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`: the prompt is the question, the response answer and [SEP]."""
        labels = {"labels": response} if training else {}
        return picture_shapes(self.vision, rows) | text_shapes(rows, input_ids=prompt, **labels)


class AlbefAnswers(AlbefSystem, AnsweringSystem):
    """See the module."""

    config: AlbefAnswerConfig

    def __init__(self, config: AlbefAnswerConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, layout=layout, remat=remat)
        self.decoder = Decoder(config.decoder, dtype=dtype, rngs=rngs, remat=remat)

    @property
    def writer(self) -> Writer:
        """See `WritingSystem`."""
        return self.decoder.writer

    def question(self, media: Media, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """See `AnsweringSystem`."""
        mask, ids = first(batch)
        return self.read_with(media["image"], ids, mask, key), mask

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`."""
        return self.looked(batch, self.attention)

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "lm": the sum of each row's tokens, with momentum distillation if there is a copy."""
        keys, taught = split(key, 2), None
        logits = self.to_logits(self.written(self.encode(batch), batch, keys[0]))
        if memory:
            teacher = self.teacher(memory)
            taught = teacher.to_logits(teacher.written(teacher.encode(batch), batch, keys[1]))
        sums, tokens = distilled(logits, batch["labels"], taught, self.alpha(step))
        return {"lm": Term(sums, jnp.minimum(tokens, 1.0))}, memory
