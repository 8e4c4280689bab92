"""Base of ALBEF and BLIP: a ViT, a BERT with cross-attention to its tokens, and momentum copies of both."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertConfig
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.pixels import numbers
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems import momentum
from instructblip_jax.systems.maps import WORDS, on_grid
from instructblip_jax.systems.prefix import at_size, in_layout_of, tokens_first
from instructblip_jax.systems.protocol import TOWER, Batch, Media, Memory, Shapes
from instructblip_jax.systems.trainable import trains

DECAY = 0.995
"""The momentum of the copies per step (ALBEF, arXiv 2107.07651, section 3.2)."""
BELOW_ONE = 1.0 - 1e-6
LIMITS: Mapping[str, tuple[float, float]] = {
    "alpha": (0.0, 1.0),
    "ramp_steps": (0, float("inf")),
    "queue_size": (1, float("inf")),
    "label_smoothing": (0.0, BELOW_ONE),
    "drop_path": (0.0, BELOW_ONE),
}
"""Option -> its minimum and maximum."""


class PictureTextConfig:
    """Base of their configurations: frozen dataclasses with at least these fields; see `protocol.SystemConfig`."""

    vision: VitConfig
    text: BertConfig
    sep_id: int
    pad_id: int
    stored_image_size: int
    alpha: float
    ramp_steps: int

    parts: ClassVar[Mapping[str, str]] = {"vit": TOWER}
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"all": ("",)}
    media_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    label_keys: ClassVar[tuple[str, ...]] = ()
    feature_keys: ClassVar[Mapping[str, str]] = {}
    prompt_is_counted: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("image_size", "dropout")
    """Names of the form's options (`configured`)."""

    @property
    def copied(self) -> tuple[str, ...]:
        """Path prefixes of the parameters that have a momentum copy."""
        return ()

    @property
    def in_batch(self) -> bool:
        """See `protocol.SystemConfig`."""
        return False

    @property
    def vocab_size(self) -> int:
        """See `protocol.SystemConfig`."""
        return self.text.vocab_size

    @property
    def end_ids(self) -> int:
        """Answers end with [SEP]."""
        return self.sep_id

    @property
    def more_end_ids(self) -> tuple[int, ...]:
        """Only the tokenizer's own end token ends an answer."""
        return ()

    def configured(self, *, image_size: int = 0, dropout: float | None = None, **others: Any) -> Self:
        """The same for images of ``image_size`` pixels per side (0: the checkpoint's own), with a ``dropout`` of
        BERT instead of config.json's (None), and with other values of the fields in `options`.

        Raises ValueError for an option that this form does not have, or an invalid value.
        """
        if unknown := others.keys() - set(self.options):
            raise ValueError(f"{', '.join(sorted(unknown))}: this form has the options {', '.join(self.options)}")
        for name, value in others.items():
            _check(name, value, type(getattr(self, name)), *LIMITS[name])
        sized, text = at_size(self, image_size), self.text
        if dropout is not None:
            _check("dropout", dropout, float, 0.0, BELOW_ONE)
            text = dataclasses.replace(text, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        return dataclasses.replace(self, text=text, **sized, **others)  # type: ignore[type-var]

    def system(self) -> Any:
        """The class of the form's module."""
        raise NotImplementedError

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = ("",),
    ) -> Any:
        """See `protocol.SystemConfig`. Raises ValueError for ``int8``."""
        if int8:
            raise ValueError(
                f"int8 is {int8!r}: this system has no large language model whose matrices could be rounded"
            )
        return self.system()(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat)

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`."""
        raise NotImplementedError

    def begin_memory(self, train: Mapping[str, jax.Array]) -> Memory:
        """See `protocol.Remembers`; without a teacher (alpha 0) there is none."""
        return momentum.copies(train, self.copied) if self.alpha else {}

    def follow(self, memory: Memory, train: Mapping[str, jax.Array]) -> Memory:
        """See `protocol.Remembers`."""
        return momentum.follow(memory, train, DECAY)

    def feature_weights(self, path: str) -> bool:
        """See `protocol.SystemConfig`."""
        return False

    def feature_settings(self) -> Mapping[str, Any]:
        """See `protocol.SystemConfig`."""
        return {}

    def trains_features(self, trained: tuple[str, ...]) -> bool:
        """See `protocol.SystemConfig`."""
        return trains("vit", trained)


def _check(name: str, value: Any, kind: type, least: float, most: float) -> None:
    """Raise ValueError unless an option's value is a number of the required kind within its bounds."""
    number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        bound = "below 1" if most == BELOW_ONE else f"at most {most:g}"
        raise ValueError(f"{name} is {value!r}; it must be at least {least:g} and {bound}")


def text_shapes(rows: int, **lengths: int) -> Shapes:
    """int32 [B, n] for each name, and the mask of "input_ids"."""
    if "input_ids" in lengths:
        lengths["attention_mask"] = lengths["input_ids"]
    return {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name, length in lengths.items()}


class PictureTextSystem(nnx.Module):
    """Base of their modules. ``drop_path``: rate of the tower's stochastic depth in training."""

    config: Any

    def __init__(self, config: Any, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str, drop_path: float = 0.0):
        self.config, self.layout = config, layout
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs, remat=remat, drop_path=drop_path)

    def encode(self, batch: Batch) -> Media:
        """pixel_values [B, H, W, 3] -> {"image": image tokens [B, P, V]}; N images per row [B, N, H, W, 3] ->
        [B, N, P, V]. Images may be bytes with their scale (`instructblip_jax.pixels`)."""
        return {"image": self.image(batch)}

    @in_layout_of("vit")
    def image(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The tokens of `encode`; ``key`` enables stochastic depth."""
        pixels = numbers(batch, "pixel_values")
        tokens = self.vit(pixels.reshape(-1, *pixels.shape[-3:]), key=key)
        return tokens.reshape(*pixels.shape[:-3], *tokens.shape[1:])

    def looked(
        self, batch: Batch, read: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    ) -> dict[str, jax.Array]:
        """`protocol.Watches.look` of a form that reads one image with a text, real tokens first. ``read``: its ids and
        mask, int [B, T] each, and the image tokens [B, P, V] -> the attention of the text to the image, [B, T, P]."""
        if "input_ids" not in batch:
            return {}
        mask, ids = first(batch)
        return {WORDS: on_grid(read(ids, mask, self.image(batch)), self.config.vision.grid)}

    def teacher(self, memory: Memory) -> Self:
        """This system with momentum copies instead of the parameters that have one."""
        other = nnx.merge(*nnx.split(self))
        for name in {prefix.split("/")[0] for prefix in self.config.copied}:
            setattr(other, name, momentum.twin(getattr(self, name), memory, name))
        return other

    def alpha(self, step: jax.Array | int) -> jax.Array:
        """The teacher's weight at a step, float32 scalar: it rises from 0 over ``ramp_steps``."""
        ramp = self.config.ramp_steps
        return self.config.alpha * jnp.minimum(1.0, step / ramp if ramp else 1.0)


def first(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Mask and ids of a batch's texts, int [B, T] each, real tokens first."""
    mask, ids = tokens_first(batch["attention_mask"], batch["input_ids"])
    return mask, ids


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """``count`` keys, or ``count`` times None."""
    return [None] * count if key is None else list(jax.random.split(key, count))
