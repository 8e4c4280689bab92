"""Perceiver resampler (arXiv 2204.14198, section 2.1): learnt latents read the features of one picture or video.

Pictures are never mixed: what a row of features becomes does not depend on the other rows.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import HeadNormAttention, weights
from instructblip_jax.models.layers.primitives import ACTIVATIONS, layer_norm, linear, parameter

EPSILON = 1e-5
"""The epsilon of all norms, a constant of the public code."""


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    """Sizes; the defaults are OpenFlamingo's over CLIP ViT-L/14.

    Attributes:
      width: of features and latents, D.
      latents: vectors that a picture or a video becomes, Q.
      activation: of the feed-forwards, whose inner width is 4 D: "gelu" (OpenFlamingo), "relu" (Idefics) or
        "squared_relu" (Flamingo).
      head_norms: queries and keys have a LayerNorm over each head (Idefics).
      frames: learnt embeddings of a video's frames; 0 if there are none.
      media: learnt embeddings of a medium's place in its row; 0 if there are none, as in all public weights. With
        them the encoding of a picture depends on its place.
    """

    width: int = 1024
    latents: int = 64
    depth: int = 6
    heads: int = 8
    head_size: int = 64
    activation: str = "gelu"
    head_norms: bool = False
    frames: int = 0
    media: int = 0


class Block(nnx.Module):
    """Cross-attention of the latents over features and latents, and a feed-forward; both without biases."""

    def __init__(self, config: ResamplerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width = config.width
        self.media_norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)
        self.latents_norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)
        norm = partial(layer_norm, config.head_size, EPSILON, dtype=dtype, rngs=rngs) if config.head_norms else None
        self.attn = HeadNormAttention(
            width, config.heads, config.head_size, norm=norm, bias=False, dtype=dtype, rngs=rngs
        )
        self.ffn_norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)
        self.up = linear(width, 4 * width, ("embed", "mlp"), bias=False, dtype=dtype, rngs=rngs)
        self.down = linear(4 * width, width, ("mlp", "embed"), bias=False, dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
        """Latents [B, Q, D] and features [B, P, D] -> latents [B, Q, D]."""
        h, keys, values = self._heads(x, features)
        x = x + self.attn(h, keys, values)
        return x + self.down(self.activation(self.up(self.ffn_norm(x))))

    def look(self, x: jax.Array, features: jax.Array) -> jax.Array:
        """The same arguments -> the attention of the latents to the features, float32 [B, Q, P], the mean over heads.
        The rest of each latent's attention is to latents."""
        h, keys, _ = self._heads(x, features)
        return weights(self.attn.queries(h), keys)[..., : features.shape[1]]

    def _heads(self, x: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The normalised latents, and the keys and values of features and latents."""
        h = self.latents_norm(x)
        return h, *self.attn.keys_values(jnp.concatenate([self.media_norm(features), h], axis=1))


class Resampler(nnx.Module):
    """Features of N media of each row, [B, N, F, P, D] with F frames of P patches -> latents [B, N, Q, D].

    ``remat``: what the backward pass keeps of each block, a name in `stack.REMAT`.
    """

    def __init__(self, config: ResamplerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none"):
        self.config, self.dtype, self.remat = config, dtype, remat
        width = config.width
        self.latents = parameter((config.latents, width), (None, "embed"), std=1.0, rngs=rngs)
        self.frames = self._times(config.frames, rngs)
        self.media = self._times(config.media, rngs)
        self.layers = stack.build(lambda rngs: Block(config, dtype=dtype, rngs=rngs), config.depth, rngs)
        self.norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)

    def _times(self, count: int, rngs: nnx.Rngs) -> nnx.Param | None:
        return parameter((count, self.config.width), (None, "embed"), std=1.0, rngs=rngs) if count else None

    def __call__(self, features: jax.Array) -> jax.Array:
        """See the class. A picture is a medium of one frame, the first.

        Raises ValueError for more media in a row than there are embeddings of their places, if there are any.
        """
        x, latents = self._begin(features)
        read = stack.run(self.layers, latents, lambda block, y: (block(y, x), None), remat=self.remat)[0]
        return self.norm(read).reshape(*features.shape[:2], *self.latents.shape)

    def look(self, features: jax.Array) -> jax.Array:
        """The attention of the latents to the features in the last block, float32 [B, N, Q, F, P], the mean over its
        heads. The rest of each latent's attention is to latents."""
        x, latents = self._begin(features)
        _, found = stack.run(self.layers, latents, lambda block, y: (block(y, x), block.look(y, x)))
        batch, count, frames, places, _ = features.shape
        return found[-1].reshape(batch, count, -1, frames, places)

    def _begin(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features with the embeddings of their places [B * N, F * P, D], and the latents of each medium."""
        batch, count, frames, places, width = features.shape
        x = features.astype(self.dtype)
        if self.frames is not None:
            x = x + stretched(self.frames[...], frames)[:, None].astype(x.dtype)
        x = x.reshape(batch, count, frames * places, width)
        if self.media is not None:
            if count > self.config.media:
                raise ValueError(f"{count} media in a row; this resampler has embeddings of {self.config.media} places")
            x = x + self.media[...][:count, None].astype(x.dtype)
        x = x.reshape(batch * count, frames * places, width)
        return x, jnp.broadcast_to(self.latents[...].astype(x.dtype), (x.shape[0], *self.latents.shape))


def stretched(embeddings: jax.Array, frames: int) -> jax.Array:
    """Embeddings [F', D] of a training video's frames -> those of ``frames`` frames: the first of them, or, of a longer
    video, interpolated linearly, both ends kept (arXiv 2204.14198, appendix; 8 become 30 there)."""
    count = embeddings.shape[0]
    if frames <= count:
        return embeddings[:frames]
    at = jnp.linspace(0.0, count - 1, frames)
    low = jnp.clip(jnp.floor(at).astype(int), 0, max(count - 2, 0))
    high = jnp.minimum(low + 1, count - 1)
    return embeddings[low] + (at - low)[:, None] * (embeddings[high] - embeddings[low])
