"""Leaf layers of all parts; every parameter carries its logical axes (see `instructblip_jax.sharding`).

Parameters are created in float32; ``dtype`` is the compute type. Loading decides in which type they are stored. Those
that are converted to the compute type before use name it ("compute"), so that it can be done once for all layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.int8 import Int8, Int8Linear

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
"""Activations by their Hugging Face names; "gelu" is the exact (erf) one."""


def _rows_dot(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> jax.Array:
    """``dot_general`` of `nnx.Linear`: [..., D] @ [D, M] as a single matrix product.

    Its kernel gradient is then a matrix product as well, not a contraction over several axes (twice as slow on CPU).
    """
    rows = x.reshape(-1, x.shape[-1])
    out = jnp.matmul(rows, kernel, precision=precision, preferred_element_type=preferred_element_type)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def linear(
    d_in: int,
    d_out: int,
    axes: tuple[str | None, str | None],
    *,
    bias: bool = True,
    gain: float = 1.0,
    dtype: DTypeLike,
    out_dtype: DTypeLike | None = None,
    int8: Int8 = False,
    rngs: nnx.Rngs,
) -> "nnx.Linear | Int8Linear":
    """``x @ kernel + bias`` with kernel [d_in, d_out] on the logical ``axes``.

    ``out_dtype``: a wider type for the result. ``int8``: a frozen kernel, stored in one byte per weight. A new kernel
    preserves the variance of its input, times ``gain`` squared.
    """
    if int8:
        return Int8Linear(d_in, d_out, axes, bias=bias, w8a8=int8 == "w8a8", dtype=dtype, out_dtype=out_dtype)
    return nnx.Linear(
        d_in,
        d_out,
        use_bias=bias,
        dtype=dtype,
        dot_general=_rows_dot,
        preferred_element_type=out_dtype,
        kernel_init=nnx.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal"),
        rngs=rngs,
        kernel_metadata={"axes": axes, "compute": dtype},
        bias_metadata={"axes": axes[1:]},
    )


def layer_norm(width: int, epsilon: float, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with float32 statistics; two-pass variance, because the fast one is less exact than torch's."""
    axes = {"axes": ("embed",)}
    return nnx.LayerNorm(
        width,
        epsilon=epsilon,
        dtype=dtype,
        use_fast_variance=False,
        rngs=rngs,
        scale_metadata=axes,
        bias_metadata=axes,
    )


def rms_norm(width: int, epsilon: float, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Root-mean-square norm (no mean, no bias); the mean of squares is taken in float32."""
    return nnx.RMSNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs, scale_metadata={"axes": ("embed",)})


def embedding(
    rows: int, width: int, axes: tuple[str | None, str | None], *, std: float = 0.02, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Embed:
    """Table [rows, width], initialised from a normal distribution with standard deviation ``std``."""
    init = nnx.initializers.normal(std)
    metadata = {"axes": axes, "compute": dtype}
    return nnx.Embed(rows, width, dtype=dtype, embedding_init=init, rngs=rngs, embedding_metadata=metadata)


def parameter(shape: tuple[int, ...], axes: tuple[str | None, ...], *, std: float = 0.02, rngs: nnx.Rngs) -> nnx.Param:
    """Bare array, initialised from a normal distribution with standard deviation ``std``."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=axes)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; the identity without a key, as in frozen parts and in evaluation."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
