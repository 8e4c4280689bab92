"""KOSMOS-1 (arXiv 2302.14045) and KOSMOS-2 without its grounding (arXiv 2306.14824): a language model that is trained
with pictures among its words.

CLIP's tokens, normalised, become a few vectors by attention; they stand between the tokens <image> and </image>, in the
place of so many ids whose number does not matter.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.bridges.attentive_pool import AttentivePool
from instructblip_jax.models.language.magneto import MagnetoConfig
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.pixels import numbers
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.interleaved import InterleavedConfig, InterleavedSystem
from instructblip_jax.systems.maps import QUERIES, on_grid
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.protocol import Batch, Media

ALL_BUT_VISION = ("pool", "llm")


@dataclasses.dataclass(frozen=True)
class KosmosConfig(InterleavedConfig):
    """Sizes of all parts; see `protocol.SystemConfig`.

    Attributes:
      vision: CLIP's tower, whose last norm is for all tokens.
      slots: vectors of a picture, "latent queries".
      begin_id, end_id: the tokens around them, <image> and </image>.
      stored_image_size: as in `systems.instructblip.InstructBlipConfig`.
    """

    vision: VitConfig
    text: MagnetoConfig
    slots: int = 64
    begin_id: int = 64003
    end_id: int = 64004
    stored_image_size: int = 0

    queries_read_text: ClassVar[bool] = False
    first_slot: ClassVar[int] = 4
    """Ids from here on hold the places of a picture's vectors: ordinary words, of which only the place counts."""
    # KOSMOS-1 trains all but the tower, of which its last layer does (section 3.1); the norm behind it goes along.
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "all": ("",),
        "all_but_vision": ALL_BUT_VISION,
        "last_vision_layer": (*ALL_BUT_VISION, "vit/last", "vit/post_norm"),
    }

    @property
    def tokens_per_picture(self) -> int:
        """Tokens of a picture: its vectors and the two around them."""
        return self.slots + 2

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """See `protocol.Forbids`: no answer begins or ends a picture."""
        return (self.begin_id, self.end_id)

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = ("",),
    ) -> "KosmosSystem":
        """See `protocol.SystemConfig`; all trainable sets have the language model, so that there is no ``int8``."""
        return KosmosSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat)


class KosmosSystem(InterleavedSystem):
    """See the module. ``dtype``: compute type. ``remat``: what the backward pass keeps of the language model."""

    def __init__(
        self, config: KosmosConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout = SHARDED, remat: str = "none"
    ):
        self.config, self.layout = config, layout
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs, remat=remat, last_apart=True)
        self.pool = AttentivePool(
            config.vision.hidden_size,
            config.text.width,
            config.text.attention_heads,
            config.slots,
            dtype=dtype,
            rngs=rngs,
        )
        self.llm = config.text.build(dtype=dtype, rngs=rngs, remat=remat)

    def vectors(self, pixels: jax.Array) -> jax.Array:
        """See `InterleavedSystem`."""
        return self._pooled(self._tokens(pixels))

    @in_layout_of("vit")
    def _tokens(self, pixels: jax.Array) -> jax.Array:
        """Pictures [B, H, W, 3] -> tokens of length 1, [B, P, Dv]."""
        tokens = self.vit(pixels)
        wide = tokens.astype(jnp.float32)
        return (wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)).astype(tokens.dtype)

    @in_layout_of("trained")
    def _pooled(self, tokens: jax.Array) -> jax.Array:
        return self.pool(tokens)

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`: the connector's queries, of a row's first picture."""
        found = self.pool.look(self._tokens(numbers(batch, "pixel_values")[:, 0]))
        return {QUERIES: on_grid(found, self.config.vision.grid)}

    def hidden(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """See `PrefixSystem`; ``key`` enables dropout in the language model."""
        return self.llm.run(*self.prompt(media, batch), key=key)

    def places(self, ids: jax.Array) -> jax.Array:
        """See `InterleavedSystem`: what follows <image>, up to </image>."""
        begun = jnp.cumsum(ids == self.config.begin_id, axis=1) > jnp.cumsum(ids == self.config.end_id, axis=1)
        return begun & (ids != self.config.begin_id)
