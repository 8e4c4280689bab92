"""Base of systems that read texts with interleaved images: LLaVA, KOSMOS-1, Frozen, Flamingo."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from instructblip_jax.pixels import numbers
from instructblip_jax.systems.prefix import PrefixConfig, PrefixSystem, first_of, in_layout_of, picture_shapes
from instructblip_jax.systems.protocol import Batch, Context, Media, Shapes


class InterleavedConfig(PrefixConfig):
    """Base of their configurations; see `prefix.PrefixConfig`. The images of a batch are [B, N, H, W, 3], padded with
    zeros if a row has fewer than N."""

    @property
    def tokens_per_picture(self) -> int:
        """Number of text tokens per image, which static text lengths do not count; 0 if they are counted."""
        raise NotImplementedError

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`. ``prompt`` and ``response`` do not count image tokens."""
        pictures = len(kinds)
        text = pictures * self.tokens_per_picture + prompt + (response if training else 0)
        names = ("input_ids", "attention_mask", *(("labels",) if training else ()))
        return {
            **picture_shapes(self.vision, rows, pictures),
            **{name: jax.ShapeDtypeStruct((rows, text), jnp.int32) for name in names},
        }


class InterleavedSystem(PrefixSystem):
    """Such a system whose language model reads an image as vectors among the words."""

    # Rows are long and a device has few of them; the head is read once per chunk.
    chunk: ClassVar[int] = 256

    def encode(self, batch: Batch) -> Media:
        """pixel_values [B, N, H, W, 3], N images per row -> {"image": [B, N, Q, D]}, the vectors of each, independent
        of the others.

        Images may be bytes with their scale (`instructblip_jax.pixels`).
        """
        pixels = numbers(batch, "pixel_values")
        rows, count = pixels.shape[:2]
        if count == 0:  # only texts
            return {"image": jnp.zeros((rows, 0, 1, self.config.text.width), self.llm.dtype)}
        vectors = self.vectors(pixels.reshape(-1, *pixels.shape[-3:]))
        return {"image": vectors.reshape(rows, count, *vectors.shape[1:])}

    def vectors(self, pixels: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] -> the vectors of each in a text, [B, Q, D]."""
        raise NotImplementedError

    def places(self, ids: jax.Array) -> jax.Array:
        """Tokens int [B, T] -> bool [B, T], true where an image vector replaces the token."""
        return ids == self.config.image_token_id

    def prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The language model's input [B, T, D] and its mask [B, T]: a row's n-th image position has its n-th vector."""
        ids = batch["input_ids"]
        here = self.places(ids)
        vectors = nth(_vectors(media), jnp.cumsum(here, axis=1) - 1)
        words = self.llm.embed(jnp.where(here, 0, ids))  # an image token may have no row in the table
        return jnp.where(here[..., None], vectors, words), batch["attention_mask"]

    @in_layout_of("llm")
    def prefill(self, media: Media, batch: Batch) -> Context:
        """See `protocol.Answers`; "last" [B, D] is the last input of each row, which may be an image vector."""
        context, first = super().prefill(media, batch), first_of(batch)
        here = self.places(first["input_ids"])
        end = jnp.maximum(jnp.sum(first["attention_mask"], axis=1, keepdims=True) - 1, 0)
        vector = nth(_vectors(media), jnp.sum(here, axis=1, keepdims=True) - 1)[:, 0]
        is_vector = jnp.take_along_axis(here, end, axis=1)
        last = jnp.where(is_vector, vector, self.llm.embed(context["first"]))
        return {**context, "last": last}

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
        start = (index + jnp.arange(ids.shape[2]) == 0)[:, None]
        embeds = jnp.where(start, context["last"][:, None, None], self.llm.embed(ids))
        return self.llm.decode(ids, context, cache, index, origin, embeds)


def nth(vectors: jax.Array, numbers: jax.Array) -> jax.Array:
    """The vectors [B, T, D] with these indices int [B, T] among each row's [B, S, D]; the nearest if an index is out of
    range, and zeros if there are no vectors."""
    if vectors.shape[1] == 0:
        return jnp.zeros((*numbers.shape, vectors.shape[-1]), vectors.dtype)
    return jnp.take_along_axis(vectors, jnp.clip(numbers, 0, vectors.shape[1] - 1)[..., None], axis=1)


def _vectors(media: Media) -> jax.Array:
    """The vectors of all images in a row, one image after the other, [B, N * Q, D]."""
    image = media["image"]
    return image.reshape(image.shape[0], image.shape[1] * image.shape[2], image.shape[3])
