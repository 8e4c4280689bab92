"""BLIP for NLVR2: classifies a sentence about two images (arXiv 2201.12086, section 4.5)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertEmbeddings
from instructblip_jax.models.language.paired_bert import PairedStack
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.objectives.lm import token_cross_entropy
from instructblip_jax.objectives.term import Term
from instructblip_jax.systems.blip import BlipConfig, BlipSystem
from instructblip_jax.systems.picture_text import first, split, text_shapes
from instructblip_jax.systems.prefix import in_layout_of, picture_shapes
from instructblip_jax.systems.protocol import Batch, Media, Memory, Shapes


@dataclasses.dataclass(frozen=True)
class BlipClassConfig(BlipConfig):
    """Classifies a sentence, [ENC] sentence [SEP], about two images per row as true or false, with the term "class".

    Attributes:
      merge_layer: the first layer that merges its outputs for the two images by a linear map; earlier layers take the
        mean (6 in the original code).
    """

    alpha: float = 0.0
    merge_layer: int = 6

    classes: ClassVar[tuple[str, ...]] = ("False", "True")
    pictures_shown: ClassVar[int] = 2
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)

    def system(self) -> type["BlipClasses"]:
        """See `PictureTextConfig`."""
        return BlipClasses

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`: the prompt is the sentence; "labels" int32 [B, 1] are class indices."""
        labels = {"labels": 1} if training else {}
        return picture_shapes(self.vision, rows, self.pictures_shown) | text_shapes(rows, input_ids=prompt, **labels)


class Judge(nnx.Module):
    """The encoder of a sentence about two images, and the head over its first state."""

    def __init__(self, config: BlipClassConfig, *, dtype: Any, rngs: nnx.Rngs, remat: str):
        text, kind = config.text, {"dtype": dtype, "rngs": rngs}
        self.embeddings = BertEmbeddings(text, **kind)
        last = text.num_hidden_layers - config.merge_layer
        self.layers = PairedStack(text, config.merge_layer, merge=False, **kind, remat=remat)
        self.merging = PairedStack(text, last, merge=True, **kind, remat=remat)
        self.inner = linear(text.hidden_size, text.hidden_size, ("embed", "mlp"), **kind)
        self.head = linear(text.hidden_size, len(config.classes), ("mlp", None), **kind)

    def __call__(
        self, ids: jax.Array, mask: jax.Array, images: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Sentences int [B, T], real tokens first, and image tokens [B, 2, P, V] -> float32 logits [B, C]."""
        keys, bias = split(key, 3), mask_bias(mask)
        x = self.layers(self.embeddings(ids, key=keys[0]), bias, images, key=keys[1])
        x = self.merging(x, bias, images, key=keys[2])
        return self.head(jax.nn.relu(self.inner(x[:, 0]))).astype(jnp.float32)


class BlipClasses(BlipSystem):
    """See the module."""

    config: BlipClassConfig

    def mixture(self, *, dtype: Any, rngs: nnx.Rngs, remat: str) -> Judge:
        """See `BlipSystem`."""
        return Judge(self.config, dtype=dtype, rngs=rngs, remat=remat)

    @in_layout_of("trained")
    def classify(self, media: Media, batch: Batch) -> jax.Array:
        """See `protocol.Classifies`: float32 [B, C]."""
        mask, ids = first(batch)
        return self.med(ids, mask, media["image"])

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "class": each row's cross-entropy."""
        keys, (mask, ids) = split(key, 2), first(batch)
        logits = self.med(ids, mask, self.image(batch, keys[0]), key=keys[1])
        return {"class": Term(*token_cross_entropy(logits[:, None], batch["labels"]))}, memory
