"""Frozen (arXiv 2106.13884): a tower is trained to produce a few vectors that a frozen language model reads as words.

Only the tower and the linear map after it are trained, with gradients that flow through the language model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import nnx

from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.models.towers.nf_resnet import NfResNet, NfResNetConfig
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.interleaved import InterleavedConfig, InterleavedSystem
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.protocol import LANGUAGE, TOWER

TRAINED = ("vision", "prefix")


@dataclasses.dataclass(frozen=True)
class FrozenConfig(InterleavedConfig):
    """Sizes of all parts; see `protocol.SystemConfig`.

    Attributes:
      vision: the paper's NF-ResNet-50, or a ViT, whose class token is used.
      vectors: number of vectors per image; the paper's best is 2.
      image_token_id: marks the place of each of them in a text. It has no row in the language model's tables.
      stored_image_size: as in `systems.instructblip.InstructBlipConfig`.
    """

    vision: NfResNetConfig | VitConfig  # type: ignore[assignment]
    text: LlamaConfig | OptConfig
    vectors: int = 2
    image_token_id: int = 32000
    stored_image_size: int = 0

    parts: ClassVar[Mapping[str, str]] = {"vision": TOWER, "llm": LANGUAGE}
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"vision": TRAINED}

    @property
    def tokens_per_picture(self) -> int:
        """See `InterleavedConfig`."""
        return self.vectors

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = TRAINED,
    ) -> "FrozenSystem":
        """See `protocol.SystemConfig`."""
        return FrozenSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, int8=int8)


class FrozenSystem(InterleavedSystem):
    """See the module. ``dtype``: compute type. ``remat``: rematerialisation of the tower and the language
    model. ``int8``: the latter's matrices are stored, or also multiplied, in int8."""

    def __init__(
        self,
        config: FrozenConfig,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
    ):
        self.config, self.layout = config, layout
        vision, width = config.vision, config.text.width
        tower = Vit if isinstance(vision, VitConfig) else NfResNet
        self.vision = tower(vision, dtype=dtype, rngs=rngs, remat=remat)  # type: ignore[arg-type]
        self.prefix = linear(vision.hidden_size, config.vectors * width, (None, "embed"), dtype=dtype, rngs=rngs)
        self.llm = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)

    def vectors(self, pixels: jax.Array) -> jax.Array:
        """See `InterleavedSystem`."""
        return self._written(self._pooled(pixels))

    @in_layout_of("vision")
    def _pooled(self, pixels: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> [B, C]."""
        found = self.vision(pixels)
        return found[:, 0] if found.ndim == 3 else found

    @in_layout_of("trained")
    def _written(self, pooled: jax.Array) -> jax.Array:
        """[B, C] -> [B, n, D]."""
        return self.prefix(pooled).reshape(len(pooled), self.config.vectors, -1)
