"""BLIP for captioning (arXiv 2201.12086, section 4.3): only its decoder, which attends to the image."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import Writer
from instructblip_jax.objectives.lm import chunked_cross_entropy
from instructblip_jax.objectives.term import Term
from instructblip_jax.systems.blip import BlipConfig, BlipSystem
from instructblip_jax.systems.picture_text import first, text_shapes
from instructblip_jax.systems.prefix import in_layout_of, picture_shapes, tokens_first
from instructblip_jax.systems.protocol import Batch, Context, Media, Memory, Shapes
from instructblip_jax.systems.writing import Decoder, WritingSystem

NO_ID = -1
"""Id of padding before an answer, which a repetition penalty must not count."""


@dataclasses.dataclass(frozen=True)
class BlipCaptionConfig(BlipConfig):
    """Captioning: "input_ids" [B, T] are [DEC], a prompt and, in training, the caption and [SEP]; "labels" [B, T] are
    the caption's tokens and [SEP] at the same positions. The term is "lm".

    By default the loss is the plain likelihood, as in Hugging Face; the original code trains with a ``label_smoothing``
    of 0.1.
    """

    alpha: float = 0.0
    label_smoothing: float = 0.0

    queries_read_text: ClassVar[bool] = False
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    options: ClassVar[tuple[str, ...]] = (*BlipConfig.options, "label_smoothing")

    def system(self) -> type["BlipCaptions"]:
        """See `PictureTextConfig`."""
        return BlipCaptions

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`; [DEC] is one of the prompt's tokens."""
        length = prompt + (response if training else 0)
        labels = {"labels": length} if training else {}
        return picture_shapes(self.vision, rows) | text_shapes(rows, input_ids=length, **labels)


class BlipCaptions(BlipSystem, WritingSystem):
    """See the module."""

    config: BlipCaptionConfig

    def mixture(self, *, dtype: Any, rngs: nnx.Rngs, remat: str) -> Decoder:
        """See `BlipSystem`."""
        return Decoder(self.config.text, dtype=dtype, rngs=rngs, remat=remat)

    @property
    def writer(self) -> Writer:
        """See `WritingSystem`."""
        return self.med.writer

    @in_layout_of("trained")
    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, T, V] at each position of ``input_ids``, of the token after it."""
        ids = batch["input_ids"]
        place = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        mask, ids, place = tokens_first(batch["attention_mask"], ids, place)
        hidden = self.writer.hidden(ids, mask, self.image(batch), key=key)
        back = jnp.argsort(place, axis=1)
        return self.to_logits(jnp.take_along_axis(hidden, back[..., None], axis=1))

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "lm": the smoothed cross-entropy of each row's tokens, and their number."""
        mask, ids, labels = tokens_first(batch["attention_mask"], batch["input_ids"], batch["labels"])
        keys = (None, None) if key is None else jax.random.split(key)
        hidden = self.writer.hidden(ids, mask, self.image(batch, keys[0]), key=keys[1])[:, :-1]
        smoothing = self.config.label_smoothing
        return {"lm": chunked_cross_entropy(self.to_logits, hidden, labels[:, 1:], smoothing=smoothing)}, memory

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`: the tokens of the prompt, and of a caption that follows it."""
        return self.looked(batch, self.writer.look)

    @in_layout_of("trained")
    def prefill(self, media: Media, batch: Batch) -> Context:
        """See `protocol.Answers`."""
        mask, ids = first(batch)
        order = jnp.argsort(mask != 0, axis=1, stable=True)  # the padding before the text
        shown = jnp.take_along_axis(jnp.where(mask == 0, NO_ID, ids), order, axis=1)
        return {"first": shown[:, -1], "ids": shown, **self.writer.prefill(ids, mask, media["image"])}
