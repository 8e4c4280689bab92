"""LLaVA 1.0 and 1.5 (arXiv 2304.08485, 2310.03744): projected image patches among the words.

An image token in ``input_ids`` is the placeholder of each patch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import nnx

from instructblip_jax.models.bridges.projector import TwoLayerProjector
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.lora import Lora, attach
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.interleaved import InterleavedConfig, InterleavedSystem
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.trainable import ADAPTERS

CONVERSATIONS = ("v1", "v0", "plain")
"""Names of the conversation templates, the default first (`processors.conversation`)."""
ASPECTS = ("square", "pad")
"""Ways to make an image square: centre crop, or padding at the sides."""
PROJECTOR = ("projector",)


@dataclasses.dataclass(frozen=True)
class LlavaConfig(InterleavedConfig):
    """Sizes of all parts; see `protocol.SystemConfig`.

    Attributes:
      vision: the tower up to the layer whose output is projected.
      projector_act: activation between the projector's two linear maps; "linear" means none.
      image_token_id: the placeholder of each patch.
      class_token: True if the class token is projected, too.
      conversation: template around instructions, one of `CONVERSATIONS`.
      image_aspect_ratio: one of `ASPECTS`; "" means that of the directory's image settings.
      stored_image_size, lora: as in `systems.instructblip.InstructBlipConfig`.
    """

    vision: VitConfig
    text: LlamaConfig
    projector_act: str = "gelu"
    image_token_id: int = 32000
    class_token: bool = False
    conversation: str = CONVERSATIONS[0]
    image_aspect_ratio: str = ""
    stored_image_size: int = 0
    lora: Lora = dataclasses.field(default_factory=Lora)

    # The papers' stages 1 and 2, and 1.5's stage 2 with LoRA: the tower stays frozen in all of them.
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "projector": PROJECTOR,
        "projector_and_llm": (*PROJECTOR, "llm"),
        "projector_and_lora": (*PROJECTOR, ADAPTERS),
    }

    @property
    def tokens_per_picture(self) -> int:
        """Number of image tokens, one per projected patch."""
        return self.vision.grid**2 + self.class_token

    def configured(
        self,
        *,
        image_size: int = 0,
        conversation: str = "",
        image_aspect_ratio: str = "",
        lora: Any = None,
        **others: Any,
    ) -> "LlavaConfig":
        """The same for images of ``image_size`` pixels per side, another template, another aspect ratio; 0 and ""
        keep the checkpoint's. ``lora``: a mapping of `Lora`'s fields.

        Raises ValueError for an unknown option or value.
        """
        if others:
            options = "image_size, conversation, image_aspect_ratio, lora"
            raise ValueError(f"{', '.join(others)}: this system has the options {options}")
        for name, value, known in (
            ("conversation", conversation, CONVERSATIONS),
            ("image_aspect_ratio", image_aspect_ratio, ASPECTS),
        ):
            if value not in ("", *known):
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        return dataclasses.replace(
            super().configured(image_size=image_size),
            conversation=conversation or self.conversation,
            image_aspect_ratio=image_aspect_ratio or self.image_aspect_ratio,
            lora=Lora.read({} if lora is None else lora, self.text.linears),
        )

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = PROJECTOR,
    ) -> "LlavaSystem":
        """See `protocol.SystemConfig`."""
        return LlavaSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, int8=int8, trained=trained)


class LlavaSystem(InterleavedSystem):
    """See the module. ``dtype``: compute type. ``remat``: rematerialisation of the language model.
    ``int8``: its frozen matrices are stored, or also multiplied, in int8. ``trained``: prefixes of the trainable
    set."""

    def __init__(
        self,
        config: LlavaConfig,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = PROJECTOR,
    ):
        self.config, self.layout = config, layout
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs)
        width, act = config.text.width, config.projector_act
        self.projector = TwoLayerProjector(config.vision.hidden_size, width, act, dtype=dtype, rngs=rngs)
        self.llm = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)
        if ADAPTERS in trained:
            attach(self.llm, config.lora, config.text.linears, dtype=dtype, rngs=rngs)

    def vectors(self, pixels: jax.Array) -> jax.Array:
        """See `InterleavedSystem`."""
        return self._projected(jax.lax.stop_gradient(self._patches(pixels)))

    @in_layout_of("vit")
    def _patches(self, pixels: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> the tower's output, [B, P, Dv]."""
        patches = self.vit(pixels)
        return patches if self.config.class_token else patches[:, 1:]

    @in_layout_of("trained")
    def _projected(self, patches: jax.Array) -> jax.Array:
        return self.projector(patches)
