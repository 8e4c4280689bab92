"""A language model alone, without media."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.prefix import PrefixConfig, PrefixSystem
from instructblip_jax.systems.protocol import LANGUAGE, Batch, Media


@dataclasses.dataclass(frozen=True)
class TextConfig(PrefixConfig):
    """The sizes of the language model, which is not trained."""

    text: T5Config

    parts: ClassVar = {"llm": LANGUAGE}
    trainable_sets: ClassVar = {"nothing": ()}
    media_keys: ClassVar[tuple[str, ...]] = ()

    def build(
        self,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        layout: Layout,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = (),
    ) -> "TextSystem":
        """See `protocol.SystemConfig`."""
        return TextSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, int8=int8)


class TextSystem(PrefixSystem):
    """See the module: a T5 after an empty visual prompt."""

    def __init__(self, config: TextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, layout: Layout, remat: str, int8: Int8):
        self.config, self.layout = config, layout
        self.llm: Any = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)

    def visual_prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """No vectors: [B, 0, D]."""
        return jnp.zeros((batch["input_ids"].shape[0], 0, self.config.text.width), self.llm.dtype)
