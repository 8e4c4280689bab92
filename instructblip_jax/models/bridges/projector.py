"""Projections of visual tokens into the language model's width."""

import jax
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.primitives import ACTIVATIONS, linear


def projector(d_in: int, d_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    """Linear, with bias: [B, Q, d_in] -> [B, Q, d_out]; "language_projection" in BLIP-2 and InstructBLIP."""
    return linear(d_in, d_out, (None, "embed"), dtype=dtype, rngs=rngs)


class TwoLayerProjector(nnx.Module):
    """Linear, activation, linear: [..., d_in] -> [..., d_out]; "multi_modal_projector" in LLaVA.

    LLaVA 1.5's activation is the exact GELU (arXiv 2310.03744). Without one ("linear") the two form one linear map, as
    Hugging Face stores LLaVA 1.0's (arXiv 2304.08485): the second is then initialised as the identity.
    """

    def __init__(self, d_in: int, d_out: int, activation: str, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.first = linear(d_in, d_out, (None, "embed"), dtype=dtype, rngs=rngs)
        self.second = linear(d_out, d_out, (None, "embed"), dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.first(x)
        return self.second(h if self.activation == "linear" else ACTIVATIONS[self.activation](h))
