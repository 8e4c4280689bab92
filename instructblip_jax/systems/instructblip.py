"""InstructBLIP (arXiv 2305.06500) and BLIP-2's second stage (arXiv 2301.12597) over an encoder-decoder.

ViT -> norm -> Q-Former, which reads the instruction -> projection -> visual prompt before the text -> T5.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.axes import constrain
from instructblip_jax.models.layers import parameter
from instructblip_jax.models.projector import projector
from instructblip_jax.models.qformer import QFormer, QFormerConfig
from instructblip_jax.models.t5 import T5, T5Config
from instructblip_jax.models.vit import Vit, VitConfig
from instructblip_jax.systems.loss import IGNORE, token_cross_entropy
from instructblip_jax.systems.protocol import Batch


@dataclasses.dataclass(frozen=True)
class InstructBlipConfig:
    """The sizes of all parts. ``instruct_qformer``: show the Q-Former the instruction (False is the paper's ablation;
    a BLIP-2 Q-Former never sees it)."""

    vision: VitConfig
    qformer: QFormerConfig
    text: T5Config
    num_query_tokens: int = 32
    instruct_qformer: bool = True


def tokens_first(ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ids and mask [B, T], padding anywhere -> the same with each row's real tokens first, in order.

    Positions then count real tokens only, so the padding side never changes an answer.
    """
    order = jnp.argsort(mask == 0, axis=1, stable=True)
    return jnp.take_along_axis(ids, order, axis=1), jnp.take_along_axis(mask, order, axis=1)


class InstructBlipSystem(nnx.Module):
    """See the module. ``dtype``: compute type; ``remat``: what the language model's backward pass keeps."""

    def __init__(self, config: InstructBlipConfig, *, dtype, rngs: nnx.Rngs, remat: str = "none"):
        self.config = config
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs)
        width = config.qformer.hidden_size
        self.query_tokens = parameter((config.num_query_tokens, width), (None, "embed"), rngs=rngs)
        self.qformer = QFormer(config.qformer, dtype=dtype, rngs=rngs)
        self.projector = projector(width, config.text.d_model, dtype=dtype, rngs=rngs)
        self.llm = T5(config.text, dtype=dtype, rngs=rngs, remat=remat)

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """pixels [B, H, W, 3] -> image tokens [B, P, Dv]. The same for every instruction."""
        # Nothing before the norm ever trains: no gradient enters the tower. The norm may (the `original` set).
        return self.vit.post_norm(jax.lax.stop_gradient(self.vit.features(pixels)))

    def visual_prompt(self, image: jax.Array, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """Image tokens [B, P, Dv] and the instruction -> the visual prompt [B, Q, D]."""
        ids, mask = None, None
        if self.config.qformer.use_text and self.config.instruct_qformer:
            if "qformer_input_ids" not in batch:
                raise ValueError("batch has no qformer_input_ids: this Q-Former reads the instruction")
            ids, mask = tokens_first(batch["qformer_input_ids"], batch["qformer_attention_mask"])
        return self.projector(self.qformer(self.query_tokens[...], image, ids, mask, key=key))

    def encode(self, image: jax.Array, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Image tokens and text -> the language model's encoding [B, Q + T, D] and its mask [B, Q + T]."""
        prompt = self.visual_prompt(image, batch, key=key)
        ids, mask = tokens_first(batch["input_ids"], batch["attention_mask"])
        embeds = jnp.concatenate([prompt, self.llm.embed(ids)], axis=1)
        mask = jnp.concatenate([jnp.ones(prompt.shape[:2], mask.dtype), mask], axis=1)
        return self.llm.encode(embeds, mask), mask

    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, To, V]: the decoder's logits at each label, its inputs being the labels shifted right."""
        encoded, mask = self.encode(self.encode_image(batch["pixel_values"]), batch, key=key)
        text, labels = self.config.text, batch["labels"]
        previous = jnp.where(labels[:, :-1] == IGNORE, text.pad_token_id, labels[:, :-1])
        start = jnp.full((labels.shape[0], 1), text.decoder_start_token_id, labels.dtype)
        logits = self.llm.decode(jnp.concatenate([start, previous], axis=1), encoded, mask)
        return constrain(logits, "batch", None, "vocab")

    def loss(self, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Sum of the response tokens' losses and their number."""
        return token_cross_entropy(self.logits(batch, key=key), batch["labels"])

    def prefill(self, image: jax.Array, batch: Batch, length: int) -> tuple[jax.Array, Any]:
        """Image tokens and instructions -> the decoder's start ids [B] and a cache for ``length`` tokens."""
        encoded, mask = self.encode(image, batch)
        ids = jnp.full((encoded.shape[0],), self.config.text.decoder_start_token_id, jnp.int32)
        return ids, self.llm.start(encoded, mask, length)

    def step(self, ids: jax.Array, cache: Any, index: jax.Array) -> tuple[jax.Array, Any]:
        """One decoding step: ids [B] -> logits float32 [B, V] and the cache."""
        return self.llm.step(ids, cache, index)
