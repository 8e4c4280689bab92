"""InstructBLIP (arXiv 2305.06500) and BLIP-2's second stage (arXiv 2301.12597).

ViT -> norm -> Q-Former, which reads the instruction -> projection -> visual prompt before the text -> language model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.bridges.projector import projector
from instructblip_jax.models.bridges.qformer import QFormer, QFormerConfig
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.lora import Lora, attach
from instructblip_jax.models.layers.primitives import parameter
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.cached_tower import CachedTower, CachedTowerConfig
from instructblip_jax.systems.maps import QUERIES, on_grid
from instructblip_jax.systems.prefix import PrefixConfig, PrefixSystem, TextConfig, in_layout_of, tokens_first
from instructblip_jax.systems.protocol import Batch, Media, Shapes
from instructblip_jax.systems.trainable import ADAPTERS

TRAINED_INSTRUCTION = 128
"""Tokens of an instruction, its last ones, that the original's Q-Former reads in training."""
QFORMER = ("qformer", "query_tokens", "projector")


@dataclasses.dataclass(frozen=True)
class InstructBlipConfig(CachedTowerConfig, PrefixConfig):
    """Sizes of all parts; see `protocol.SystemConfig`.

    Attributes:
      instruct_qformer: show the Q-Former the instruction (False is the paper's ablation; a BLIP-2 Q-Former never sees
        it).
      image_token_id: what stands for the visual prompt in Hugging Face's prompts, -1 if the checkpoint has no such
        token.
      stored_image_size: pixels along a side for which the checkpoint's position embeddings are stored, 0 if it is the
        tower's own size.
      lora: sizes of the language model's adapters, in the trainable sets that have them.
    """

    vision: VitConfig
    qformer: QFormerConfig
    text: TextConfig
    num_query_tokens: int = 32
    instruct_qformer: bool = True
    image_token_id: int = -1
    stored_image_size: int = 0
    lora: Lora = dataclasses.field(default_factory=Lora)

    # "original": the norm after the tower too, as the original code trains it (its freezing loop covers the tower
    # only). "vision": the whole tower too, as BLIP-2 is fine-tuned (arXiv 2301.12597, section 4.2).
    # "qformer_and_lora": the language model follows through adapters, which no paper of these two does.
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qformer": QFORMER,
        "original": (*QFORMER, "vit/post_norm"),
        "projection": ("projector",),
        "vision": (*QFORMER, "vit"),
        "qformer_and_lora": (*QFORMER, ADAPTERS),
    }

    @property
    def reads_instruction(self) -> bool:
        """True if the Q-Former has a text half (InstructBLIP, not BLIP-2)."""
        return self.qformer.use_text

    @property
    def queries_read_text(self) -> bool:
        """See `protocol.Looks`."""
        return self.reads_instruction and self.instruct_qformer

    def instruction_limit(self, *, training: bool) -> int:
        """Tokens of an instruction that the Q-Former reads, its last ones: in training as many as the original's."""
        positions = self.qformer.max_position_embeddings
        return min(TRAINED_INSTRUCTION, positions) if training else positions

    def configured(
        self, *, image_size: int = 0, instruct_qformer: bool = True, lora: Any = None, **others: Any
    ) -> "InstructBlipConfig":
        """The same for pictures of ``image_size`` pixels a side (0: the checkpoint's own), with or without the
        instruction for the Q-Former, and with adapters of other sizes (``lora``, a mapping of `Lora`'s fields).

        Raises ValueError for another option, a size that patches do not divide, or adapters that cannot be.
        """
        if others:
            raise ValueError(f"{', '.join(others)}: this system has the options image_size, instruct_qformer and lora")
        if not isinstance(instruct_qformer, bool):
            raise ValueError(f"instruct_qformer is {instruct_qformer!r}; it is True or False")
        sized = super().configured(image_size=image_size)
        adapters = Lora.read({} if lora is None else lora, self.text.linears)
        return dataclasses.replace(sized, instruct_qformer=instruct_qformer, lora=adapters)

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = QFORMER,
    ) -> "InstructBlipSystem":
        """See `protocol.SystemConfig`."""
        return InstructBlipSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, int8=int8, trained=trained)

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`; several pictures of a row are read as the frames of a video."""
        shapes = super().batch(rows, prompt, response, kinds, training=training)
        if self.reads_instruction:
            length = min(prompt, self.instruction_limit(training=training))
            for key in ("qformer_input_ids", "qformer_attention_mask"):
                shapes[key] = jax.ShapeDtypeStruct((rows, length), jnp.int32)
        return shapes


class InstructBlipSystem(CachedTower, PrefixSystem):
    """See the module. ``dtype``: compute type. ``remat``: what the backward pass keeps of both towers. ``int8``: the
    language model's matrices take one byte a weight, or multiply in int8 as well. ``trained``: prefixes of the
    trainable set."""

    def __init__(
        self,
        config: InstructBlipConfig,
        *,
        dtype,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = QFORMER,
    ):
        self.config, self.layout, self.train_tower = config, layout, config.trains_features(trained)
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs, remat=remat if self.train_tower else "none")
        width = config.qformer.hidden_size
        self.query_tokens = parameter((config.num_query_tokens, width), (None, "embed"), rngs=rngs)
        self.qformer = QFormer(config.qformer, dtype=dtype, rngs=rngs)
        self.projector = projector(width, config.text.width, dtype=dtype, rngs=rngs)
        self.llm = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)
        if ADAPTERS in trained:
            attach(self.llm, config.lora, config.text.linears, dtype=dtype, rngs=rngs)

    @in_layout_of("trained")
    def visual_prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """Image tokens [B, (F,) P, Dv] and the instruction -> the visual prompt [B, (F *) Q, D], frame after frame."""
        if self.config.queries_read_text and "qformer_input_ids" not in batch:
            raise ValueError("batch has no qformer_input_ids: this Q-Former reads the instruction")
        image = media["image"]
        prompt = self.projector(self.qformer(self.query_tokens[...], *self._asked(image, batch), key=key))
        return prompt.reshape(image.shape[0], -1, prompt.shape[-1])

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`; without "qformer_input_ids" the queries read the picture alone."""
        image = self.encode(batch)["image"]
        found = self.qformer.look(self.query_tokens[...], *self._asked(image, batch))
        return {QUERIES: on_grid(found.reshape(*image.shape[:-2], *found.shape[1:]), self.config.vision.grid)}

    def _asked(self, image: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """Image tokens [B, (F,) P, Dv] and a batch -> what the Q-Former reads: [B * F, P, Dv], and ids and mask of the
        instruction, int [B * F, Tq], or None if it reads none."""
        tokens = image.reshape(-1, *image.shape[-2:])
        if not self.config.queries_read_text or "qformer_input_ids" not in batch:
            return tokens, None, None
        mask, ids = tokens_first(batch["qformer_attention_mask"], batch["qformer_input_ids"])
        mask, ids = (jnp.repeat(x, len(tokens) // len(image), axis=0) for x in (mask, ids))  # each frame's is the same
        return tokens, ids, mask
