"""Linear projection with bias from the Q-Former's width to the language model's (BLIP-2, InstructBLIP)."""

from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.primitives import linear


def projector(d_in: int, d_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    """[B, Q, d_in] -> [B, Q, d_out]; "language_projection" in the public checkpoints."""
    return linear(d_in, d_out, (None, "embed"), dtype=dtype, rngs=rngs)
