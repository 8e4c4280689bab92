"""Leaf layers of all parts; every parameter carries its logical axes (see `instructblip_jax.sharding`).

Parameters are created in float32; ``dtype`` is the compute type. Loading determines the type in which they are stored.
Those that are converted to the compute type before use name it ("compute"), so that it can be done once for all layers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.int8 import Int8, Int8Linear
from instructblip_jax.models.layers.lora import Adapter
from instructblip_jax.sharding import constrain


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU of any shape and floating type, in float32 by PyTorch's own formula.

    ``erf`` compiles to an eighth of the instructions of `jax.nn.gelu`'s ``erfc`` and runs in 0.4 of its time on a CPU.
    """
    if x.dtype != jnp.float32:  # 1 + erf would cancel
        return jax.nn.gelu(x, approximate=False)
    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "squared_relu": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
}
"""Activations by their Hugging Face names; "gelu" is the exact (erf) one, "quick_gelu" CLIP's, "squared_relu"
Flamingo's."""


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


class Linear(nnx.Linear):
    """`nnx.Linear`, plus its adapter if it has one (`lora.attach`)."""

    lora: Adapter | None = None

    def __call__(self, x: jax.Array, out_sharding: Any = None) -> jax.Array:
        out = super().__call__(x, out_sharding)
        return out if self.lora is None else out + self.lora(x).astype(out.dtype)


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
) -> "Linear | Int8Linear":
    """``x @ kernel + bias`` with kernel [d_in, d_out] on the logical ``axes``.

    ``out_dtype``: a wider type for the result. ``int8``: a frozen kernel, stored in one byte per weight. A new kernel
    preserves the variance of its input, times ``gain`` squared.
    """
    if int8:
        return Int8Linear(d_in, d_out, axes, bias=bias, w8a8=int8 == "w8a8", dtype=dtype, out_dtype=out_dtype)
    return Linear(
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


def kept(keys: jax.Array, rate: float, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> jax.Array:
    """Masks of one dropout in several layers: PRNG keys [L] -> bool [L, *shape], true where a value is kept.

    ``axes``: logical names of ``shape``, so that every device draws its own part only.

    Equal bit for bit to `jax.random.bernoulli` of each key, without its detour through floating point. The generator is
    a long program, which is compiled once here for all layers. It runs one layer at a time, so that its numbers stay in
    the cache.
    """
    # bernoulli turns the upper 23 bits into a multiple of 2 ** -23, and compares it with the float32 probability.
    bound = math.ceil(float(np.float32(1.0 - rate)) * 2**23)
    return jax.lax.map(lambda key: constrain(jax.random.bits(key, shape, jnp.uint32) >> 9 < bound, *axes), keys)


def dropout(x: jax.Array, rate: float, keep: jax.Array | None) -> jax.Array:
    """Inverted dropout with a mask of ``x``'s shape; the identity without one, as in frozen parts and in evaluation."""
    return x if keep is None else jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def dropped(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout of x [B, ...] with a mask drawn from ``key``; the identity without a key, or at a rate of 0."""
    if key is None or rate == 0:
        return x
    return dropout(x, rate, kept(key[None], rate, x.shape, ("batch", *(None for _ in x.shape[1:])))[0])
