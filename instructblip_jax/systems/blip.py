"""BLIP (arXiv 2201.12086): a ViT, and a BERT that reads texts alone or with the picture, or writes them.

This is what all its forms share; `blip_pairs` compares pictures and texts, `blip_captions` and `blip_answers` write,
`blip_classes` judges sentences about two pictures.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import nnx

from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.picture_text import PictureTextConfig, PictureTextSystem, split


@dataclasses.dataclass(frozen=True)
class BlipConfig(PictureTextConfig):
    """Sizes of all parts, and the objectives' options; see `protocol.SystemConfig`.

    Attributes:
      embed_dim: size E of the embeddings that are compared.
      dec_id: [DEC], which begins a text that is written; [ENC], which begins one that is read with a picture, follows
        it. They are the last rows of the table of words, and no tokens of the tokenizer.
      stored_image_size: pixels along a side for which the checkpoint's positions are stored, 0 if it is the tower's.
      label_smoothing: of the words that are written (the original code's 0.1).
      drop_path: rate of stochastic depth in the tower's last block, in training.
      alpha: weight of the momentum copies in the targets of contrast (0.4 in the original code); it rises from 0 in
        ``ramp_steps``.
      queue_size: features of earlier batches in each queue (57,600 in the original code).
    """

    vision: VitConfig
    text: BertConfig
    embed_dim: int = 256
    dec_id: int = 30522
    sep_id: int = 102
    pad_id: int = 0
    stored_image_size: int = 0
    label_smoothing: float = 0.1
    drop_path: float = 0.0
    alpha: float = 0.4
    ramp_steps: int = 0
    queue_size: int = 57_600

    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"all": ("",), "text": ("med",)}
    match_adds_similarity: ClassVar[bool] = True
    """Re-ranking scores a pair by its matching logit and its similarity together, as the original code does."""
    options: ClassVar[tuple[str, ...]] = (*PictureTextConfig.options, "drop_path")

    @property
    def enc_id(self) -> int:
        """[ENC]."""
        return self.dec_id + 1


class Encoder(nnx.Module):
    """Embeddings, and layers with cross-attention in each."""

    def __init__(self, config: BlipConfig, *, dtype: Any, rngs: nnx.Rngs, remat: str):
        self.embeddings = BertEmbeddings(config.text, dtype=dtype, rngs=rngs)
        layers = config.text.num_hidden_layers
        self.layers = BertStack(config.text, layers, cross=True, dtype=dtype, rngs=rngs, remat=remat)

    def read(
        self, ids: jax.Array, mask: jax.Array, image: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Texts int [B, T], real tokens first, with image tokens [B, P, V] or alone -> states [B, T, D]."""
        keys = split(key, 2)
        return self.layers(self.embeddings(ids, key=keys[0]), mask_bias(mask), image, key=keys[1])

    def look(self, ids: jax.Array, mask: jax.Array, image: jax.Array) -> jax.Array:
        """The arguments of `read` -> the attention of a text's tokens to the image tokens, float32 [B, T, P]."""
        return self.layers.look(self.embeddings(ids), mask_bias(mask), image)


class BlipSystem(PictureTextSystem):
    """The tower and ``med``, the paper's mixture of encoder and decoder: everything else of a form."""

    config: Any

    def __init__(self, config: BlipConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, layout=layout, remat=remat, drop_path=config.drop_path)
        self.med = self.mixture(dtype=dtype, rngs=rngs, remat=remat)

    def mixture(self, *, dtype: Any, rngs: nnx.Rngs, remat: str) -> Any:
        """The form's ``med``."""
        raise NotImplementedError
