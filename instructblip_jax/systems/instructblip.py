"""InstructBLIP (arXiv 2305.06500) and BLIP-2's second stage (arXiv 2301.12597).

ViT -> norm -> Q-Former, which reads the instruction -> projection -> visual prompt before the text -> language model.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.bridges.projector import projector
from instructblip_jax.models.bridges.qformer import QFormer, QFormerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.layers.primitives import parameter
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.objectives.lm import IGNORE, chunked_cross_entropy
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import SHARDED, Layout, constrain, laid_out
from instructblip_jax.systems.protocol import LANGUAGE, TOWER, Batch, Context, Media, Memory, Shapes

TextConfig = T5Config | LlamaConfig | OptConfig
TRAINED_INSTRUCTION = 128
"""Tokens of an instruction, its last ones, that the original's Q-Former reads in training."""
QFORMER = ("qformer", "query_tokens", "projector")


@dataclasses.dataclass(frozen=True)
class InstructBlipConfig:
    """Sizes of all parts; see `protocol.SystemConfig`.

    Attributes:
      instruct_qformer: show the Q-Former the instruction (False is the paper's ablation; a BLIP-2 Q-Former never sees
        it).
      image_token_id: what stands for the visual prompt in Hugging Face's prompts, -1 if the checkpoint has no such
        token.
      stored_image_size: pixels along a side for which the checkpoint's position embeddings are stored, 0 if it is the
        tower's own size.
    """

    vision: VitConfig
    qformer: QFormerConfig
    text: TextConfig
    num_query_tokens: int = 32
    instruct_qformer: bool = True
    image_token_id: int = -1
    stored_image_size: int = 0

    parts: ClassVar[Mapping[str, str]] = {"vit": TOWER, "llm": LANGUAGE}
    # "original": the norm after the tower too, as the original code trains it (its freezing loop covers the tower
    # only). "vision": the whole tower too, as BLIP-2 is fine-tuned (arXiv 2301.12597, section 4.2).
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qformer": QFORMER,
        "original": (*QFORMER, "vit/post_norm"),
        "projection": ("projector",),
        "vision": (*QFORMER, "vit"),
    }
    in_batch: ClassVar[bool] = False
    media_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    feature_keys: ClassVar[Mapping[str, str]] = {"pixel_values": "image_features"}

    @property
    def decoder_only(self) -> bool:
        """True if the language model is one stack that continues the prompt (LLaMA, OPT; not T5)."""
        return not isinstance(self.text, T5Config)

    @property
    def vocab_size(self) -> int:
        """See `protocol.SystemConfig`."""
        return self.text.vocab_size

    @property
    def end_ids(self) -> int | tuple[int, ...]:
        """See `protocol.SystemConfig`."""
        return self.text.eos_token_id

    @property
    def more_end_ids(self) -> tuple[int, ...]:
        """Tokens besides the tokenizer's own that end an answer: all of a list, and OPT's, which is the newline that
        BLIP-2's captions were trained to end with. The number in T5's and LLaMA's files is not to be trusted."""
        ends = self.text.eos_token_id
        if isinstance(ends, tuple):
            return ends
        return (ends,) if isinstance(self.text, OptConfig) else ()

    @property
    def pad_id(self) -> int:
        """See `protocol.SystemConfig`."""
        return self.text.pad_token_id

    @property
    def prompt_is_counted(self) -> bool:
        """T5's prompt is the start token alone, which counts, as it does in Hugging Face."""
        return not self.decoder_only

    @property
    def reads_instruction(self) -> bool:
        """True if the Q-Former has a text half (InstructBLIP, not BLIP-2)."""
        return self.qformer.use_text

    def instruction_limit(self, *, training: bool) -> int:
        """Tokens of an instruction that the Q-Former reads, its last ones: in training as many as the original's."""
        positions = self.qformer.max_position_embeddings
        return min(TRAINED_INSTRUCTION, positions) if training else positions

    def configured(self, *, image_size: int = 0, instruct_qformer: bool = True, **others: Any) -> "InstructBlipConfig":
        """The same for pictures of ``image_size`` pixels a side (0: the checkpoint's own), and with or without the
        instruction for the Q-Former. Raises ValueError for another option, or a size that patches do not divide."""
        if others:
            raise ValueError(f"{', '.join(others)}: the options of this system are image_size and instruct_qformer")
        if not isinstance(instruct_qformer, bool):
            raise ValueError(f"instruct_qformer is {instruct_qformer!r}; it is True or False")
        vision = self.vision.at(image_size)
        stored = self.stored_image_size or (self.vision.image_size if vision != self.vision else 0)
        return dataclasses.replace(self, vision=vision, instruct_qformer=instruct_qformer, stored_image_size=stored)

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: bool = False,
        trained: tuple[str, ...] = QFORMER,
    ) -> "InstructBlipSystem":
        """See `protocol.SystemConfig`."""
        return InstructBlipSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, int8=int8, trained=trained)

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`; several pictures of a row are read as the frames of a video."""
        side = self.vision.image_size
        frames = () if kinds == ("image",) else (len(kinds),)
        text = prompt + (response if training and self.decoder_only else 0)
        shapes = {"input_ids": (rows, text), "attention_mask": (rows, text)}
        if self.reads_instruction:
            length = min(prompt, self.instruction_limit(training=training))
            shapes |= {"qformer_input_ids": (rows, length), "qformer_attention_mask": (rows, length)}
        if training:
            shapes["labels"] = (rows, text if self.decoder_only else response)
        pixels = jax.ShapeDtypeStruct((rows, *frames, side, side, 3), jnp.float32)
        return {"pixel_values": pixels} | {
            name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()
        }

    def feature_weights(self, path: str) -> bool:
        """All of the tower but its last norm, which may train."""
        return path.startswith("vit/") and not path.startswith("vit/post_norm/")

    def feature_settings(self) -> Mapping[str, Any]:
        """See `protocol.SystemConfig`."""
        return {"vision": dataclasses.asdict(self.vision)}

    def trains_features(self, trained: tuple[str, ...]) -> bool:
        """See `protocol.SystemConfig`."""
        return any(prefix == "" or (prefix.startswith("vit") and prefix != "vit/post_norm") for prefix in trained)


def tokens_first(mask: jax.Array, *rows: jax.Array) -> tuple[jax.Array, ...]:
    """Mask and rows, all [B, T], padding anywhere -> the same with each row's real tokens first, in order.

    Positions then count real tokens only, so that the padding side never changes an answer.
    """
    order = jnp.argsort(mask == 0, axis=1, stable=True)
    return tuple(jnp.take_along_axis(x, order, axis=1) for x in (mask, *rows))


def _in_layout_of(part: str) -> Callable[[Callable], Callable]:
    """Make a method constrain its activations by the layout of ``part``, and name its operations after it."""

    def wrap(method: Callable) -> Callable:
        @functools.wraps(method)
        def run(self: "InstructBlipSystem", *args: Any, **kwargs: Any) -> Any:
            with laid_out(self.layout.of(part)), jax.named_scope(part):
                return method(self, *args, **kwargs)

        return run

    return wrap


class InstructBlipSystem(nnx.Module):
    """See the module. ``dtype``: compute type. ``remat``: what the backward pass keeps of both towers. ``int8``: the
    language model's matrices take one byte a weight. ``trained``: prefixes of the trainable set."""

    def __init__(
        self,
        config: InstructBlipConfig,
        *,
        dtype,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: bool = False,
        trained: tuple[str, ...] = QFORMER,
    ):
        self.config, self.layout, self.train_tower = config, layout, config.trains_features(trained)
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs, remat=remat if self.train_tower else "none")
        width = config.qformer.hidden_size
        self.query_tokens = parameter((config.num_query_tokens, width), (None, "embed"), rngs=rngs)
        self.qformer = QFormer(config.qformer, dtype=dtype, rngs=rngs)
        self.projector = projector(width, config.text.width, dtype=dtype, rngs=rngs)
        self.llm: Any = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)

    @_in_layout_of("vit")
    def encode(self, batch: Batch) -> Media:
        """pixel_values [B, H, W, 3] -> {"image": image tokens [B, P, Dv]}; frames [B, F, H, W, 3] -> [B, F, P, Dv].

        A batch may hold "image_features" instead, which `features` made.
        """
        features = batch.get("image_features")
        if features is None:
            features = self.features(batch)["pixel_values"]
            if not self.train_tower:  # the norm may train all the same (the `original` set)
                features = jax.lax.stop_gradient(features)
        return {"image": self.vit.post_norm(features)}

    @_in_layout_of("vit")
    def features(self, batch: Batch) -> dict[str, jax.Array]:
        """The part of `encode` that stays the same whatever is trained: everything but the last norm."""
        pixels = batch["pixel_values"]
        features = self.vit.features(pixels.reshape(-1, *pixels.shape[-3:]))
        return {"pixel_values": features.reshape(*pixels.shape[:-3], *features.shape[1:])}

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

    def prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Image tokens and text -> the language model's input [B, Q + T, D] and its mask [B, Q + T]."""
        visual = self.visual_prompt(media["image"], batch, key=key)
        embeds = jnp.concatenate([visual, self.llm.embed(batch["input_ids"])], axis=1)
        mask = batch["attention_mask"]
        return embeds, jnp.concatenate([jnp.ones(visual.shape[:2], mask.dtype), mask], axis=1)

    @_in_layout_of("llm")
    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, To, V]: T5's decoder logits at each label, its inputs being the labels shifted right; or
        [B, T, V]: a decoder-only model's logits at each text position, of the token after it."""
        media = self.encode(batch)
        if self.config.decoder_only:
            hidden = self.llm.run(*self.prompt(media, batch, key=key))
            return self._to_logits(hidden[:, -batch["input_ids"].shape[1] :])
        return self._to_logits(self._decoded(media, batch, key))

    @_in_layout_of("llm")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "lm": the negative log-likelihood of each row's response tokens, and their number."""
        media = self.encode(batch)
        if not self.config.decoder_only:
            hidden, labels = self._decoded(media, batch, key), batch["labels"]
        else:
            # Each label is predicted at the real token before it, whichever side the padding is on.
            first = _first(batch, "labels")
            labels = first["labels"]
            hidden = self.llm.run(*self.prompt(media, first, key=key))[:, -1 - labels.shape[1] : -1]
        return {"lm": chunked_cross_entropy(self._to_logits, hidden, labels)}, memory

    @_in_layout_of("llm")
    def prefill(self, media: Media, batch: Batch) -> Context:
        """See `protocol.Answers`."""
        embeds, mask = self.prompt(media, _first(batch))
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
        return {"first": first, "ids": ids, **self.llm.prefill(embeds, mask)}

    @_in_layout_of("llm")
    def init_cache(self, context: Context, rows: int, length: int) -> Any:
        """See `protocol.Answers`."""
        return self.llm.init_cache(context, rows, length)

    @_in_layout_of("llm")
    def decode(
        self, ids: jax.Array, context: Context, cache: Any = None, index: jax.Array | int = 0
    ) -> tuple[jax.Array, Any]:
        """See `protocol.Answers`."""
        return self.llm.decode(ids, context, cache, index)

    def _decoded(self, media: Media, batch: Batch, key: jax.Array | None) -> jax.Array:
        """T5's decoder output at each label [B, To, D]."""
        embeds, mask = self.prompt(media, _first(batch), key=key)
        return self.llm.run_decoder(self._shifted(batch["labels"]), self.llm.encode(embeds, mask), mask)

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
