"""ALBEF (arXiv 2107.07651): a ViT, and a BERT whose first layers read only text; its last layers also attend to images.

This module has what all forms share; `albef_pairs` compares images and texts, `albef_answers` answers questions,
`albef_classes` classifies images with sentences.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.objectives.lm import IGNORE, token_log_likelihood
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.picture_text import PictureTextConfig, PictureTextSystem, split

ENCODER = ("vit", "embeddings", "text", "fusion")
"""Modules that encode an image and a text."""


@dataclasses.dataclass(frozen=True)
class AlbefConfig(PictureTextConfig):
    """Sizes of all parts, and the objectives' options; see `protocol.SystemConfig`.

    Attributes:
      fusion_layer: the first layer of BERT that attends to the image; an answer decoder has one layer for each layer
        from this one on.
      embed_dim: size E of the contrastive embeddings.
      add_sep: texts end with [SEP], as in LAVIS's port; the original's end with their last word.
      stored_image_size: pixels along a side for which the checkpoint's positions are stored, 0 if it is the tower's.
      alpha: weight of the momentum teacher in the targets (0.4 in section 3.4); it rises from 0 over ``ramp_steps``.
      queue_size: number of features of earlier batches in each queue (65,536 in section 3.2).
    """

    vision: VitConfig
    text: BertConfig
    fusion_layer: int = 6
    embed_dim: int = 256
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103
    pad_id: int = 0
    add_sep: bool = False
    stored_image_size: int = 0
    alpha: float = 0.4
    ramp_steps: int = 0
    queue_size: int = 65_536

    match_adds_similarity: ClassVar[bool] = False
    """Re-ranking scores a pair by its matching logit alone, as the original code does."""
    options: ClassVar[tuple[str, ...]] = (*PictureTextConfig.options, "alpha", "ramp_steps")

    @property
    def copied(self) -> tuple[str, ...]:
        """See `PictureTextConfig`."""
        return ENCODER


class AlbefSystem(PictureTextSystem):
    """The encoder of an image and a text. Each form's system subclasses it."""

    def __init__(self, config: AlbefConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, layout=layout, remat=remat)
        kind: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.embeddings = BertEmbeddings(config.text, **kind)
        self.text = BertStack(config.text, config.fusion_layer, cross=False, **kind, remat=remat)
        self.fusion = self.fusing(kind, remat)

    def fusing(self, kind: dict[str, Any], remat: str) -> Any:
        """The layers that attend to the image; ``kind``: compute type and random numbers."""
        layers = self.config.text.num_hidden_layers - self.config.fusion_layer
        return BertStack(self.config.text, layers, cross=True, **kind, remat=remat)

    def read(self, ids: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Texts int [B, T], real tokens first -> the states [B, T, D] of the text-only layers."""
        keys = split(key, 2)
        return self.text(self.embeddings(ids, key=keys[0]), mask_bias(mask), key=keys[1])

    def read_with(self, image: jax.Array, ids: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Texts int [B, T] with their image tokens [B, (N,) P, V] -> the last states [B, T, D]."""
        keys = split(key, 2)
        return self.fusion(self.read(ids, mask, keys[0]), mask_bias(mask), image, key=keys[1])

    def attention(self, ids: jax.Array, mask: jax.Array, image: jax.Array) -> jax.Array:
        """Texts int [B, T] and image tokens [B, P, V] -> the attention of the texts to the images, [B, T, P]."""
        return self.fusion.look(self.read(ids, mask), mask_bias(mask), image)


def distilled(
    logits: jax.Array, labels: jax.Array, teacher: jax.Array | None, alpha: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Logits float32 [B, T, V] and labels int [B, T] -> each row's loss, summed over the labelled positions, and
    their number, float32 [B] each: cross-entropy with the label, and with weight ``alpha`` with the teacher's softmax.

    ``teacher``: its logits, in the shape of ``logits``; None for no teacher.
    """
    counted = labels != IGNORE
    each = token_log_likelihood(logits, jnp.where(counted, labels, 0))
    if teacher is not None:
        soft = jnp.sum(jax.nn.softmax(jax.lax.stop_gradient(teacher)) * jax.nn.log_softmax(logits), axis=-1)
        each = (1.0 - alpha) * each + alpha * soft
    return -jnp.sum(each * counted, axis=1), jnp.sum(counted, axis=1, dtype=jnp.float32)
