"""KOSMOS' connector, "attentive pooling" (arXiv 2302.14045): a picture's many tokens -> a few vectors of a text."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.attention import Attention, weights
from instructblip_jax.models.layers.primitives import linear, parameter


class AttentivePool(nnx.Module):
    """A linear map to the text's width, then one attention in which latent queries read tokens and latents: no norm, no
    residual, as the code of KOSMOS-2 has it."""

    def __init__(self, d_in: int, width: int, heads: int, latents: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dense = linear(d_in, width, (None, "embed"), dtype=dtype, rngs=rngs)
        self.latents = parameter((latents, width), (None, "embed"), std=1.0, rngs=rngs)
        self.attn = Attention(width, heads, width // heads, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens [B, P, d_in] -> [B, Q, width]."""
        return self.attn(*self._heads(tokens))

    def look(self, tokens: jax.Array) -> jax.Array:
        """The attention of the latents to the tokens, float32 [B, Q, P], the mean over heads. The rest of each latent's
        attention is to latents."""
        latents, keys, _ = self._heads(tokens)
        return weights(self.attn.queries(latents), keys)[..., : tokens.shape[1]]

    def _heads(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The latents, and the keys and values of tokens and latents."""
        tokens = self.dense(tokens)
        latents = jnp.broadcast_to(self.latents[...].astype(tokens.dtype), (tokens.shape[0], *self.latents.shape))
        return latents, *self.attn.keys_values(jnp.concatenate([tokens, latents], axis=1))
