"""ALBEF for classification (arXiv 2107.07651, section 5): a sentence about two images (NLVR2) or one (SNLI-VE)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import BertLayer, BertStack
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.post_norm import Masks
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import Layout, constrain
from instructblip_jax.systems.albef import ENCODER, AlbefConfig, AlbefSystem, distilled
from instructblip_jax.systems.picture_text import first, split, text_shapes
from instructblip_jax.systems.prefix import in_layout_of, picture_shapes
from instructblip_jax.systems.protocol import Batch, Media, Memory, Shapes

TRUTH = ("False", "True")
"""NLVR2's classes, in the order of the logits."""
ENTAILMENT = ("contradiction", "neutral", "entailment")
"""SNLI-VE's classes."""


@dataclasses.dataclass(frozen=True)
class AlbefClassConfig(AlbefConfig):
    """Classifies a sentence about ``pictures_shown`` images per row as one of ``classes``, with the term "class"."""

    classes: tuple[str, ...] = ENTAILMENT
    pictures_shown: int = 1

    label_keys: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def copied(self) -> tuple[str, ...]:
        """See `AlbefConfig`."""
        return (*ENCODER, "cls_head")

    def system(self) -> type["AlbefClasses"]:
        """See `PictureTextConfig`."""
        return AlbefClasses

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`: the prompt is the sentence; "labels" int32 [B, 1] are class indices."""
        shown = (self.pictures_shown,) if self.pictures_shown > 1 else ()
        labels = {"labels": 1} if training else {}
        return picture_shapes(self.vision, rows, *shown) | text_shapes(rows, input_ids=prompt, **labels)


class PairLayer(nnx.Module):
    """Two layers: the first attends to one image, the second to the other, with the first layer's key and value
    maps."""

    def __init__(self, *blocks: Any):
        self.one, self.other = BertLayer(*blocks[:3]), BertLayer(*blocks[3:])

    def __call__(self, x: jax.Array, bias: jax.Array, images: jax.Array, keep: tuple[Masks, Masks]) -> jax.Array:
        """x [B, T, D] and images [B, 2, P, V] -> [B, T, D]."""
        layer: Any
        attention: Any = self.one.cross_attention
        for n, (layer, masks) in enumerate(zip((self.one, self.other), keep, strict=True)):
            x = layer.self_attention(x, x, bias, masks.get("self_probs"), masks.get("self_out"))
            keys_values = attention.attn.keys_values(images[:, n])
            x = layer.cross_attention.over(x, [(*keys_values, None)], masks.get("cross_probs"), masks.get("cross_out"))
            x = layer.ffn(x, masks.get("ffn"))
        return x


class PairedFusion(nnx.Module):
    """The fusion layers of NLVR2: twice as many as those of pre-training, in pairs (section 5)."""

    def __init__(self, config: AlbefConfig, kind: dict[str, Any], remat: str):
        layers = config.text.num_hidden_layers - config.fusion_layer
        self.one = BertStack(config.text, layers, cross=True, **kind)
        self.other = BertStack(config.text, layers, cross=True, **kind)
        # Both images of a pair share one set of key and value maps.
        attention: Any = self.other.cross_attention
        attention.attn.k = attention.attn.v = None
        self.remat = remat

    def __call__(self, x: jax.Array, bias: jax.Array, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, T, D] and images [B, 2, P, V] -> [B, T, D]. ``key`` enables dropout."""
        both = (self.one, self.other)
        blocks = [block for half in both for block in (half.self_attention, half.cross_attention, half.ffn)]
        layers = stack.joined(PairLayer, *blocks)

        def body(pair: Any, x: jax.Array, keep: tuple[Masks, Masks] = ({}, {})) -> tuple[jax.Array, None]:
            return pair(x, bias, images, keep), None

        x = constrain(x, "batch", None, None)
        if key is None:
            return stack.run(layers, x, body, remat=self.remat)[0]
        keys = jax.random.split(key)
        masks = tuple(half.dropouts(k, x, images[:, 0]) for half, k in zip(both, keys, strict=True))
        return stack.run(layers, x, body, masks, remat=self.remat)[0]


class ClassHead(nnx.Module):
    """States [B, D] -> float32 logits [B, C]: two dense layers with a ReLU between them."""

    def __init__(self, width: int, classes: int, *, dtype: Any, rngs: nnx.Rngs):
        self.first = linear(width, width, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.second = linear(width, classes, ("mlp", None), dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.nn.relu(self.first(x))).astype(jnp.float32)


class AlbefClasses(AlbefSystem):
    """See the module."""

    config: AlbefClassConfig

    def __init__(self, config: AlbefClassConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, layout=layout, remat=remat)
        self.cls_head = ClassHead(config.text.hidden_size, len(config.classes), dtype=dtype, rngs=rngs)

    def fusing(self, kind: dict[str, Any], remat: str) -> Any:
        """See `AlbefSystem`."""
        if self.config.pictures_shown == 1:
            return super().fusing(kind, remat)
        return PairedFusion(self.config, kind, remat)

    @in_layout_of("trained")
    def classify(self, media: Media, batch: Batch) -> jax.Array:
        """See `protocol.Classifies`: float32 [B, C]."""
        return self._classified(media, batch)

    def _classified(self, media: Media, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        mask, ids = first(batch)
        return self.cls_head(self.read_with(media["image"], ids, mask, key)[:, 0])

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """One term, "class": each row's cross-entropy, with momentum distillation if there is a copy."""
        keys = split(key, 2)
        logits = self._classified(self.encode(batch), batch, keys[0])[:, None]
        taught = None
        if memory:
            teacher = self.teacher(memory)
            taught = teacher._classified(teacher.encode(batch), batch, keys[1])[:, None]
        return {"class": Term(*distilled(logits, batch["labels"], taught, self.alpha(step)))}, memory
