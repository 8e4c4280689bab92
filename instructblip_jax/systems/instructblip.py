"""InstructBLIP (arXiv 2305.06500) and BLIP-2's second stage (arXiv 2301.12597).

ViT -> norm -> Q-Former, which reads the instruction -> projection -> visual prompt before the text -> language model.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.bridges.projector import projector
from instructblip_jax.models.bridges.qformer import QFormer, QFormerConfig
from instructblip_jax.models.language.llama import Llama, LlamaConfig
from instructblip_jax.models.language.opt import Opt, OptConfig
from instructblip_jax.models.language.t5 import T5, T5Config
from instructblip_jax.models.layers.primitives import parameter
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.objectives.lm import IGNORE, chunked_cross_entropy, token_log_likelihood
from instructblip_jax.sharding import SHARDED, Layout, constrain, laid_out
from instructblip_jax.systems.protocol import Batch, Context

TextConfig = T5Config | LlamaConfig | OptConfig
LANGUAGE_MODELS: dict[type, Any] = {T5Config: T5, LlamaConfig: Llama, OptConfig: Opt}


@dataclasses.dataclass(frozen=True)
class InstructBlipConfig:
    """The sizes of all parts. ``instruct_qformer``: show the Q-Former the instruction (False is the paper's ablation;
    a BLIP-2 Q-Former never sees it). ``image_token_id``: what stands for the visual prompt in Hugging Face's prompts,
    -1 where the checkpoint has no such token."""

    vision: VitConfig
    qformer: QFormerConfig
    text: TextConfig
    num_query_tokens: int = 32
    instruct_qformer: bool = True
    image_token_id: int = -1

    @property
    def decoder_only(self) -> bool:
        """Whether the language model is one stack that goes on where the prompt ends (LLaMA, OPT; not T5)."""
        return not isinstance(self.text, T5Config)

    def at(self, image_size: int) -> "InstructBlipConfig":
        """The same for pictures of another size; see `VitConfig.at`."""
        return dataclasses.replace(self, vision=self.vision.at(image_size))


def tokens_first(mask: jax.Array, *rows: jax.Array) -> tuple[jax.Array, ...]:
    """mask and rows, all [B, T], padding anywhere -> the same with each row's real tokens first, in order.

    Positions then count real tokens only, so the padding side never changes an answer.
    """
    order = jnp.argsort(mask == 0, axis=1, stable=True)
    return tuple(jnp.take_along_axis(x, order, axis=1) for x in (mask, *rows))


def _in_layout_of(part: str) -> Callable[[Callable], Callable]:
    """A method whose activations lie as its part of the system does, and whose operations carry its name."""

    def wrap(method: Callable) -> Callable:
        @functools.wraps(method)
        def run(self: "InstructBlipSystem", *args: Any, **kwargs: Any) -> Any:
            with laid_out(getattr(self.layout, part)), jax.named_scope(part):
                return method(self, *args, **kwargs)

        return run

    return wrap


class InstructBlipSystem(nnx.Module):
    """See the module. ``dtype``: compute type; ``layout``: how the parts lie on the mesh; ``remat``: what the backward
    pass keeps of both towers; ``int8``: the language model's matrices in a byte a weight; ``train_tower``: let
    gradients into the vision tower."""

    def __init__(
        self,
        config: InstructBlipConfig,
        *,
        dtype,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: bool = False,
        train_tower: bool = False,
    ):
        self.config, self.layout, self.train_tower = config, layout, train_tower
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs, remat=remat if train_tower else "none")
        width = config.qformer.hidden_size
        self.query_tokens = parameter((config.num_query_tokens, width), (None, "embed"), rngs=rngs)
        self.qformer = QFormer(config.qformer, dtype=dtype, rngs=rngs)
        self.projector = projector(width, config.text.width, dtype=dtype, rngs=rngs)
        self.llm = LANGUAGE_MODELS[type(config.text)](config.text, dtype=dtype, rngs=rngs, remat=remat, int8=int8)

    @_in_layout_of("vit")
    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """pixels [B, H, W, 3] -> image tokens [B, P, Dv]; frames [B, F, H, W, 3] -> [B, F, P, Dv].

        The same for every instruction.
        """
        frames = pixels.reshape(-1, *pixels.shape[-3:])
        features = self.vit.features(frames)
        if not self.train_tower:  # the norm may train all the same (the `original` set)
            features = jax.lax.stop_gradient(features)
        tokens = self.vit.post_norm(features)
        return tokens.reshape(*pixels.shape[:-3], *tokens.shape[1:])

    @_in_layout_of("vit")
    def image_features(self, pixels: jax.Array) -> jax.Array:
        """What of `encode_image` stays the same whatever is trained: all but the norm at its end."""
        return self.vit.features(pixels)

    @_in_layout_of("vit")
    def encode_features(self, features: jax.Array) -> jax.Array:
        """`image_features` [B, (F,) P, Dv] -> image tokens, as `encode_image` makes them of the pixels."""
        return self.vit.post_norm(features)

    def image_tokens(self, batch: Batch) -> jax.Array:
        """Of a batch's pictures [B, (F,) P, Dv]: from its "image_features", or else its "pixel_values"."""
        if "image_features" in batch:
            return self.encode_features(batch["image_features"])
        return self.encode_image(batch["pixel_values"])

    @_in_layout_of("trained")
    def visual_prompt(self, image: jax.Array, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """Image tokens [B, (F,) P, Dv] and the instruction -> the visual prompt [B, (F *) Q, D], frame after frame."""
        ids, mask = None, None
        frames = image.shape[1] if image.ndim == 4 else 1
        if self.config.qformer.use_text and self.config.instruct_qformer:
            if "qformer_input_ids" not in batch:
                raise ValueError("batch has no qformer_input_ids: this Q-Former reads the instruction")
            mask, ids = tokens_first(batch["qformer_attention_mask"], batch["qformer_input_ids"])
            mask, ids = (jnp.repeat(x, frames, axis=0) for x in (mask, ids))  # every frame is asked the same
        tokens = image.reshape(-1, *image.shape[-2:])
        prompt = self.projector(self.qformer(self.query_tokens[...], tokens, ids, mask, key=key))
        return prompt.reshape(image.shape[0], -1, prompt.shape[-1])

    def prompt(self, image: jax.Array, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Image tokens and text -> the language model's input [B, Q + T, D] and its mask [B, Q + T]."""
        visual = self.visual_prompt(image, batch, key=key)
        embeds = jnp.concatenate([visual, self.llm.embed(batch["input_ids"])], axis=1)
        mask = batch["attention_mask"]
        return embeds, jnp.concatenate([jnp.ones(visual.shape[:2], mask.dtype), mask], axis=1)

    @_in_layout_of("llm")
    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, To, V]: T5's decoder logits at each label, its inputs being the labels shifted right; or
        [B, T, V]: a decoder-only model's logits at each text position, of the token after it."""
        image = self.image_tokens(batch)
        if self.config.decoder_only:
            hidden = self.llm.run(*self.prompt(image, batch, key=key))
            return self._to_logits(hidden[:, -batch["input_ids"].shape[1] :])
        return self._to_logits(self._decoded(image, batch, key))

    @_in_layout_of("llm")
    def loss(self, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Of each row the sum of its response tokens' losses, and their number; both float32 [B]."""
        image = self.image_tokens(batch)
        if not self.config.decoder_only:
            return chunked_cross_entropy(self._to_logits, self._decoded(image, batch, key), batch["labels"])
        # Each label is predicted where the real token before it stands, whichever side the padding is on.
        first = _first(batch, "labels")
        hidden = self.llm.run(*self.prompt(image, first, key=key))
        hidden = hidden[:, -1 - first["labels"].shape[1] : -1]
        return chunked_cross_entropy(self._to_logits, hidden, first["labels"])

    @_in_layout_of("llm")
    def read(self, image: jax.Array, batch: Batch) -> Context:
        """Image tokens and instructions -> what all continuations of each example share (see `protocol.System`)."""
        embeds, mask = self.prompt(image, _first(batch))
        visual = embeds.shape[1] - batch["input_ids"].shape[1]
        if self.config.decoder_only:
            # As Hugging Face has them: placeholders, then the padding, then the text.
            order = jnp.argsort(batch["attention_mask"] != 0, axis=1, stable=True)
            text = jnp.take_along_axis(batch["input_ids"], order, axis=1)
            holders = jnp.full((embeds.shape[0], visual), self.config.image_token_id, text.dtype)
            ids = jnp.concatenate([holders, text], axis=1)
            first = ids[:, -1]
        else:
            first = jnp.full((embeds.shape[0],), self._start_id, jnp.int32)
            ids = first[:, None]
        return {"first": first, "ids": ids, **self.llm.read(embeds, mask)}

    @_in_layout_of("llm")
    def cache(self, context: Context, rows: int, length: int) -> Any:
        """Room for ``length`` new tokens of ``rows`` continuations of each example."""
        return self.llm.cache(context, rows, length)

    @_in_layout_of("llm")
    def extend(
        self, ids: jax.Array, context: Context, cache: Any = None, index: jax.Array | int = 0
    ) -> tuple[jax.Array, Any]:
        """ids [B, N, T] -> logits float32 [B, N, T, V] of the tokens after them, and the cache with them."""
        return self.llm.extend(ids, context, cache, index)

    def log_likelihood(self, context: Context, ids: jax.Array, counted: jax.Array) -> jax.Array:
        """Continuations ids int [B, N, T] -> the summed log-probability of their ``counted`` tokens, float32 [B, N]."""
        first = jnp.broadcast_to(context["first"][:, None, None], (*ids.shape[:2], 1))
        logits, _ = self.extend(jnp.concatenate([first, ids[:, :, :-1]], axis=2), context)
        return jnp.sum(token_log_likelihood(logits, ids) * counted, axis=2)

    def _decoded(self, image: jax.Array, batch: Batch, key: jax.Array | None) -> jax.Array:
        """T5's decoder output at each label [B, To, D]."""
        embeds, mask = self.prompt(image, _first(batch), key=key)
        return self.llm.decode(self._shifted(batch["labels"]), self.llm.encode(embeds, mask), mask)

    def _to_logits(self, hidden: jax.Array) -> jax.Array:
        return constrain(self.llm.logits(hidden), "batch", None, "vocab")

    def _shifted(self, labels: jax.Array) -> jax.Array:
        """Labels [B, To] -> the decoder's inputs: the start token, then all labels but the last."""
        previous = jnp.where(labels[:, :-1] == IGNORE, self.config.text.pad_token_id, labels[:, :-1])
        start = jnp.full((labels.shape[0], 1), self._start_id, labels.dtype)
        return jnp.concatenate([start, previous], axis=1)

    @property
    def _start_id(self) -> int:
        assert isinstance(self.config.text, T5Config)
        return self.config.text.decoder_start_token_id


def _first(batch: Batch, *more: str) -> Batch:
    """The batch with the language model's real tokens first, and the rows named in ``more`` along with them."""
    names = ("input_ids", *more)
    mask, *moved = tokens_first(batch["attention_mask"], *(batch[name] for name in names))
    return {**batch, **dict(zip(names, moved, strict=True)), "attention_mask": mask}
