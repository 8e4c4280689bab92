"""BLIP for question answering (arXiv 2201.12086, section 4.4): a decoder attends to the states of the question."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import Writer
from instructblip_jax.objectives.lm import chunked_cross_entropy
from instructblip_jax.objectives.term import Term
from instructblip_jax.systems.blip import BlipConfig, BlipSystem, Encoder
from instructblip_jax.systems.picture_text import first, split, text_shapes
from instructblip_jax.systems.prefix import in_layout_of, picture_shapes
from instructblip_jax.systems.protocol import Batch, Media, Memory, Shapes
from instructblip_jax.systems.writing import AnsweringSystem, Decoder


@dataclasses.dataclass(frozen=True)
class BlipAnswerConfig(BlipConfig):
    """Question answering: "input_ids" are [ENC], the question and [SEP], "labels" [B, To] the answer's tokens and
    [SEP]. The term "lm" is the sum over an answer's tokens, averaged over answers."""

    alpha: float = 0.0

    queries_read_text: ClassVar[bool] = False
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    options: ClassVar[tuple[str, ...]] = (*BlipConfig.options, "label_smoothing")

    @property
    def start_id(self) -> int:
        """[DEC]."""
        return self.dec_id

    def system(self) -> type["BlipAnswers"]:
        """See `PictureTextConfig`."""
        return BlipAnswers

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`: the prompt is the question, the response answer and [SEP]."""
        labels = {"labels": response} if training else {}
        return picture_shapes(self.vision, rows) | text_shapes(rows, input_ids=prompt, **labels)


class Asked(Encoder):
    """The encoder of questions and the decoder of answers, without shared parameters."""

    def __init__(self, config: BlipConfig, *, dtype: Any, rngs: nnx.Rngs, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, remat=remat)
        text = dataclasses.replace(config.text, encoder_hidden_size=config.text.hidden_size)
        self.decoder = Decoder(text, dtype=dtype, rngs=rngs, remat=remat)


class BlipAnswers(BlipSystem, AnsweringSystem):
    """See the module."""

    config: BlipAnswerConfig

    def mixture(self, *, dtype: Any, rngs: nnx.Rngs, remat: str) -> Asked:
        """See `BlipSystem`."""
        return Asked(self.config, dtype=dtype, rngs=rngs, remat=remat)

    @property
    def writer(self) -> Writer:
        """See `WritingSystem`."""
        return self.med.decoder.writer

    def question(self, media: Media, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """See `AnsweringSystem`."""
        mask, ids = first(batch)
        return self.med.read(ids, mask, media["image"], key=key), mask

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`: the question."""
        return self.looked(batch, self.med.look)

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "lm": the smoothed cross-entropy summed over the tokens of each row's answer."""
        keys = split(key, 2)
        hidden = self.written({"image": self.image(batch, keys[0])}, batch, keys[1])
        smoothing = self.config.label_smoothing
        tokens = chunked_cross_entropy(self.to_logits, hidden, batch["labels"], smoothing=smoothing)
        return {"lm": Term(tokens.sums, jnp.minimum(tokens.counts, 1.0))}, memory
