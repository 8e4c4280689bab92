"""Base of systems that generate text after a visual prompt: images become vectors before the words.

InstructBLIP, BLIP-2's second stage and similar systems differ in how the vectors are computed (see `instructblip`). A
system that places them among the words overrides `prompt` (see `llava`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.magneto import MagnetoConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.objectives.lm import CHUNK, IGNORE, chunked_cross_entropy
from instructblip_jax.objectives.term import Term
from instructblip_jax.pixels import SCALE
from instructblip_jax.sharding import Layout, constrain, laid_out
from instructblip_jax.systems.protocol import LANGUAGE, TOWER, Batch, Context, Media, Memory, Shapes

TextConfig = T5Config | LlamaConfig | OptConfig


class PrefixConfig:
    """Base of their configurations: frozen dataclasses with at least the fields ``vision``, ``text``
    and ``stored_image_size``; see `protocol.SystemConfig`."""

    vision: VitConfig
    text: TextConfig | MagnetoConfig
    stored_image_size: int
    image_token_id: int = -1

    parts: ClassVar[Mapping[str, str]] = {"vit": TOWER, "llm": LANGUAGE}
    in_batch: ClassVar[bool] = False
    media_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    feature_keys: ClassVar[Mapping[str, str]] = {}

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
        """Tokens in addition to the tokenizer's own that end an answer: all of a list, and OPT's, which is the newline
        at the end of BLIP-2's training captions. The id in T5's and LLaMA's files is not reliable."""
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
        """True for T5: its prompt is only the start token, which Hugging Face also counts."""
        return not self.decoder_only

    def configured(self, *, image_size: int = 0, **others: Any) -> Self:
        """The same for images of ``image_size`` pixels per side (0: the checkpoint's own).

        Raises ValueError for an option that the system does not have, or a size that is no multiple of the patch size.
        """
        if others:
            raise ValueError(f"{', '.join(others)}: this system has no such option; it has image_size")
        return dataclasses.replace(self, **at_size(self, image_size))  # type: ignore[type-var]

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`; several images in a row are read as video frames."""
        frames = () if kinds == ("image",) else (len(kinds),)
        text = prompt + (response if training and self.decoder_only else 0)
        shapes = {"input_ids": (rows, text), "attention_mask": (rows, text)}
        if training:
            shapes["labels"] = (rows, text if self.decoder_only else response)
        pictures = picture_shapes(self.vision, rows, *frames)
        return pictures | {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}

    def feature_weights(self, path: str) -> bool:
        """See `protocol.SystemConfig`."""
        return False

    def feature_settings(self) -> Mapping[str, Any]:
        """See `protocol.SystemConfig`."""
        return {}

    def trains_features(self, trained: tuple[str, ...]) -> bool:
        """See `protocol.SystemConfig`."""
        return True


def picture_shapes(vision: VitConfig, rows: int, *more: int, key: str = "pixel_values") -> Shapes:
    """Shapes of a batch's images under ``key``, bytes and their scale. ``more``: images per row, if there are
    several."""
    side = vision.image_size
    return {
        key: jax.ShapeDtypeStruct((rows, *more, side, side, 3), jnp.uint8),
        key + SCALE: jax.ShapeDtypeStruct((rows, *more, 3, 3), jnp.float32),
    }


def at_size(config: Any, image_size: int) -> dict[str, Any]:
    """The fields ``vision`` and ``stored_image_size`` of a configuration for images of ``image_size`` pixels per side;
    0 keeps the current size. Raises ValueError for a size that is no multiple of the patch size."""
    vision = config.vision.at(image_size)
    stored = config.stored_image_size or (config.vision.image_size if vision != config.vision else 0)
    return {"vision": vision, "stored_image_size": stored}


def tokens_first(mask: jax.Array, *rows: jax.Array) -> tuple[jax.Array, ...]:
    """Mask and rows, all [B, T], padding anywhere -> the same with each row's real tokens first, in order.

    Positions then count only real tokens, so that the padding side never changes an answer.
    """
    order = jnp.argsort(mask == 0, axis=1, stable=True)
    return tuple(jnp.take_along_axis(x, order, axis=1) for x in (mask, *rows))


def in_layout_of(part: str) -> Callable[[Callable], Callable]:
    """Decorator: constrain a method's activations by the layout of ``part``, and name its operations after it."""

    def wrap(method: Callable) -> Callable:
        @functools.wraps(method)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            with laid_out(self.layout.of(part)), jax.named_scope(part):
                return method(self, *args, **kwargs)

        return run

    return wrap


class PrefixSystem(nnx.Module):
    """Answers and loss of such a system. A subclass has ``config``, ``layout`` and ``llm``, and defines how media are
    encoded and become the visual prompt."""

    config: Any
    layout: Layout
    llm: Any
    chunk: ClassVar[int] = CHUNK
    """Number of positions whose logits exist at the same time."""

    def encode(self, batch: Batch) -> Media:
        """See `protocol.System`."""
        raise NotImplementedError

    def visual_prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """Encoded media, and texts if they are used -> the visual prompt [B, Q, D]."""
        raise NotImplementedError

    def prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Media and text -> the language model's input [B, Q + T, D] and its mask [B, Q + T]."""
        visual = self.visual_prompt(media, batch, key=key)
        embeds = jnp.concatenate([visual, self.llm.embed(batch["input_ids"])], axis=1)
        mask = batch["attention_mask"]
        return embeds, jnp.concatenate([jnp.ones(visual.shape[:2], mask.dtype), mask], axis=1)

    def hidden(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """The last layer's output of a decoder-only language model at each position of `prompt`, [B, Q + T, D]."""
        return self.llm.run(*self.prompt(media, batch, key=key))

    def begun(self, media: Media, batch: Batch, embeds: jax.Array, mask: jax.Array) -> dict[str, Any]:
        """Media, text with the real tokens first, and the result of `prompt` for both -> the context from the language
        model's `prefill`."""
        return self.llm.prefill(embeds, mask)

    @in_layout_of("llm")
    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, To, V]: T5's decoder logits at each label, its inputs being the labels shifted right; or
        [B, T, V]: a decoder-only model's logits at each text position, of the token after it."""
        media = self.encode(batch)
        if self.config.decoder_only:
            hidden = self.hidden(media, batch, key=key)
            return self._to_logits(hidden[:, -batch["input_ids"].shape[1] :])
        return self._to_logits(self._decoded(media, batch, key))

    @in_layout_of("llm")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "lm": the negative log-likelihood of each row's response tokens, and their number."""
        media = self.encode(batch)
        if not self.config.decoder_only:
            hidden, labels = self._decoded(media, batch, key), batch["labels"]
        else:
            # Each label is predicted at the real token before it, for padding on either side.
            first = first_of(batch, "labels")
            hidden = self.hidden(media, first, key=key)[:, :-1]
            # Without a visual prompt before the text, nothing predicts its first token.
            labels = first["labels"][:, -hidden.shape[1] :]
            hidden = hidden[:, -labels.shape[1] :]
        return {"lm": chunked_cross_entropy(self._to_logits, hidden, labels, self.chunk)}, memory

    @in_layout_of("llm")
    def prefill(self, media: Media, batch: Batch) -> Context:
        """See `protocol.Answers`."""
        begin = first_of(batch)
        embeds, mask = self.prompt(media, begin)
        visual = embeds.shape[1] - batch["input_ids"].shape[1]
        if self.config.decoder_only:
            # As in Hugging Face: placeholders, then padding, then text.
            order = jnp.argsort(batch["attention_mask"] != 0, axis=1, stable=True)
            text = jnp.take_along_axis(batch["input_ids"], order, axis=1)
            holders = jnp.full((embeds.shape[0], visual), self.config.image_token_id, text.dtype)
            ids = jnp.concatenate([holders, text], axis=1)
            first = ids[:, -1]
        else:
            first = jnp.full((embeds.shape[0],), self._start_id, jnp.int32)
            ids = first[:, None]
        return {"first": first, "ids": ids, **self.begun(media, begin, embeds, mask)}

    @in_layout_of("llm")
    def init_cache(self, context: Context, rows: int, length: int) -> Any:
        """See `protocol.Answers`."""
        return self.llm.init_cache(context, rows, length)

    @in_layout_of("llm")
    def decode(
        self,
        ids: jax.Array,
        context: Context,
        cache: Any = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """See `protocol.Answers`."""
        return self.llm.decode(ids, context, cache, index, origin)

    def _decoded(self, media: Media, batch: Batch, key: jax.Array | None) -> jax.Array:
        """T5's decoder output at each label [B, To, D]."""
        embeds, mask = self.prompt(media, first_of(batch), key=key)
        return self.llm.run_decoder(self._shifted(batch["labels"]), self.llm.encode(embeds, mask), mask)

    def _to_logits(self, hidden: jax.Array) -> jax.Array:
        return constrain(self.llm.logits(hidden), "batch", None, "vocab")

    def _shifted(self, labels: jax.Array) -> jax.Array:
        """Labels [B, To] -> the decoder's inputs: the start token, then all labels except the last."""
        previous = jnp.where(labels[:, :-1] == IGNORE, self.config.text.pad_token_id, labels[:, :-1])
        start = jnp.full((labels.shape[0], 1), self._start_id, labels.dtype)
        return jnp.concatenate([start, previous], axis=1)

    @property
    def _start_id(self) -> int:
        assert isinstance(self.config.text, T5Config)
        return self.config.text.decoder_start_token_id


def first_of(batch: Batch, *more: str) -> Batch:
    """The batch with the language model's real tokens first, and the rows named in ``more`` reordered equally."""
    names = ("input_ids", *more)
    mask, *moved = tokens_first(batch["attention_mask"], *(batch[name] for name in names))
    return {**batch, **dict(zip(names, moved, strict=True)), "attention_mask": mask}
