"""ALBEF (arXiv 2107.07651): a ViT, and one BERT whose first layers read the text alone and whose last ones the picture.

This is what all its forms share; `albef_pairs` compares pictures and texts, `albef_answers` answers questions,
`albef_classes` sorts pictures and sentences into classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.objectives.lm import IGNORE, token_log_likelihood
from instructblip_jax.objectives.term import Term
from instructblip_jax.pixels import SCALE, numbers
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems import momentum
from instructblip_jax.systems.prefix import in_layout_of, tokens_first
from instructblip_jax.systems.protocol import TOWER, Batch, Media, Memory, Shapes
from instructblip_jax.systems.trainable import trains

DECAY = 0.995
"""The share of a momentum copy that stays at each step (section 3.2)."""
ENCODER = ("vit", "embeddings", "text", "fusion")
"""Modules that read a picture and a text."""


@dataclasses.dataclass(frozen=True)
class AlbefConfig:
    """Sizes of all parts, and the objectives' options; see `protocol.SystemConfig`.

    Attributes:
      fusion_layer: the first layer of BERT that reads the picture; an answer decoder has as many layers as there are
        from it on.
      embed_dim: size E of the embeddings that are compared.
      add_sep: texts end with [SEP], as in LAVIS's port; the original's end with their last word.
      stored_image_size: pixels along a side for which the checkpoint's positions are stored, 0 if it is the tower's.
      alpha: weight of the momentum teacher in the targets (0.4 in section 3.4); it rises from 0 in ``ramp_steps``.
      queue_size: features of earlier batches in each queue (65,536 in section 3.2).
    """

    vision: VitConfig
    text: BertConfig
    fusion_layer: int = 6
    embed_dim: int = 256
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103
    pad_id: int = 0
    add_sep: bool = False
    stored_image_size: int = 0
    alpha: float = 0.4
    ramp_steps: int = 0
    queue_size: int = 65_536

    parts: ClassVar[Mapping[str, str]] = {"vit": TOWER}
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"all": ("",)}
    media_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    label_keys: ClassVar[tuple[str, ...]] = ()
    feature_keys: ClassVar[Mapping[str, str]] = {}
    prompt_is_counted: ClassVar[bool] = True
    match_adds_similarity: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("image_size", "alpha", "ramp_steps", "dropout")

    @property
    def copied(self) -> tuple[str, ...]:
        """Modules that have a momentum copy."""
        return ENCODER

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
        """No token but the tokenizer's own ends an answer."""
        return ()

    def configured(self, *, image_size: int = 0, dropout: float | None = None, **others: Any) -> Self:
        """The same for pictures of ``image_size`` pixels a side (0: the checkpoint's own), with another ``dropout`` in
        BERT than config.json's (None), and with other values of the fields that are among `options`.

        Raises ValueError for an option that this form does not have, or a value that cannot be.
        """
        if unknown := others.keys() - set(self.options):
            raise ValueError(f"{', '.join(sorted(unknown))}: this form has the options {', '.join(self.options)}")
        bounds = {"alpha": 1.0, "ramp_steps": float("inf"), "queue_size": float("inf")}
        for name, value in others.items():
            least, kind = (1 if name == "queue_size" else 0), type(getattr(self, name))
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value <= bounds[name]:
                raise ValueError(f"{name} is {value!r}; it must be at least {least} and at most {bounds[name]:g}")
        vision, text = self.vision.at(image_size), self.text
        stored = self.stored_image_size or (self.vision.image_size if vision != self.vision else 0)
        if dropout is not None:
            if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
                raise ValueError(f"dropout is {dropout!r}; it must be at least 0 and below 1")
            text = dataclasses.replace(text, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        return dataclasses.replace(self, vision=vision, text=text, stored_image_size=stored, **others)

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = ("",),
    ) -> "AlbefSystem":
        """See `protocol.SystemConfig`; there is no language model that ``int8`` could round."""
        return self.system(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat)

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`."""
        raise NotImplementedError

    @property
    def system(self) -> type["AlbefSystem"]:
        """The module of this form."""
        raise NotImplementedError

    def pictures(self, rows: int, *more: int) -> Shapes:
        """Shapes of a batch's pictures, bytes and their scale; ``more``: pictures of a row, if it has several."""
        side = self.vision.image_size
        return {
            "pixel_values": jax.ShapeDtypeStruct((rows, *more, side, side, 3), jnp.uint8),
            "pixel_values" + SCALE: jax.ShapeDtypeStruct((rows, *more, 3, 3), jnp.float32),
        }

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


def text_shapes(rows: int, **lengths: int) -> Shapes:
    """int32 [B, n] for each name; "input_ids" comes with its mask."""
    if "input_ids" in lengths:
        lengths["attention_mask"] = lengths["input_ids"]
    return {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name, length in lengths.items()}


class AlbefSystem(nnx.Module):
    """The encoder of a picture and a text. A form's system subclasses it."""

    def __init__(self, config: AlbefConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str):
        self.config, self.layout = config, layout
        kind: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.vit = Vit(config.vision, **kind, remat=remat)
        self.embeddings = BertEmbeddings(config.text, **kind)
        self.text = BertStack(config.text, config.fusion_layer, cross=False, **kind, remat=remat)
        self.fusion = self._fusion(kind, remat)

    def _fusion(self, kind: dict[str, Any], remat: str) -> Any:
        layers = self.config.text.num_hidden_layers - self.config.fusion_layer
        return BertStack(self.config.text, layers, cross=True, **kind, remat=remat)

    @in_layout_of("vit")
    def encode(self, batch: Batch) -> Media:
        """pixel_values [B, H, W, 3] -> {"image": image tokens [B, P, V]}; N pictures a row [B, N, H, W, 3] ->
        [B, N, P, V]. Pictures may be bytes beside their scale (`instructblip_jax.pixels`)."""
        pixels = numbers(batch, "pixel_values")
        tokens = self.vit(pixels.reshape(-1, *pixels.shape[-3:]))
        return {"image": tokens.reshape(*pixels.shape[:-3], *tokens.shape[1:])}

    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """See `protocol.System`."""
        raise NotImplementedError

    def read(self, ids: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Texts int [B, T], real tokens first -> the states [B, T, D] of the layers that read no picture."""
        keys = split(key, 2)
        return self.text(self.embeddings(ids, key=keys[0]), mask_bias(mask), key=keys[1])

    def teacher(self, memory: Memory) -> Self:
        """This system with its momentum copies in the place of the parameters that have one."""
        other = nnx.merge(*nnx.split(self))
        for name in self.config.copied:
            setattr(other, name, momentum.twin(getattr(self, name), memory, name))
        return other

    def alpha(self, step: jax.Array | int) -> jax.Array:
        """The teacher's weight at a step, float32 scalar."""
        ramp = self.config.ramp_steps
        return self.config.alpha * jnp.minimum(1.0, step / ramp if ramp else 1.0)


def first(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Mask and ids of a batch's texts, int [B, T] each, real tokens first."""
    mask, ids = tokens_first(batch["attention_mask"], batch["input_ids"])
    return mask, ids


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """``count`` keys, or as many times None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def distilled(
    logits: jax.Array, labels: jax.Array, teacher: jax.Array | None, alpha: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Logits float32 [B, T, V] and labels int [B, T] -> each row's loss summed over the positions that have a label,
    and their number, float32 [B] each: cross-entropy with the label, and with the teacher's softmax by ``alpha``.

    ``teacher``: its logits, of the shape of ``logits``; None is no teacher.
    """
    counted = labels != IGNORE
    each = token_log_likelihood(logits, jnp.where(counted, labels, 0))
    if teacher is not None:
        soft = jnp.sum(jax.nn.softmax(jax.lax.stop_gradient(teacher)) * jax.nn.log_softmax(logits), axis=-1)
        each = (1.0 - alpha) * each + alpha * soft
    return -jnp.sum(each * counted, axis=1), jnp.sum(counted, axis=1, dtype=jnp.float32)
