"""int8 for frozen matrices: one byte per weight, one scale per output channel, without calibration (symmetric absmax).

The product is computed in ``dtype`` (only weights are quantized: W8A16), or in int8 (W8A8), which chips multiply up to
twice as fast: activations are then quantized as well, with a dynamic scale for each row.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.layers.lora import Adapter

LEVELS = 127
"""The largest stored magnitude; -128 is not used, so that the range is symmetric."""


def quantize(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """kernel [D, M] -> int8 [D, M] and float32 scales [M], with ``kernel ~ int8 * scale``. Runs on the host."""
    kernel = kernel.astype(np.float32)
    scale = np.abs(kernel).max(axis=0) / LEVELS
    scale = np.where(scale > 0, scale, np.float32(1))  # a column of zeros
    return np.rint(kernel / scale).astype(np.int8), scale


Int8 = Literal[False, True, "w8a8"]
"""The operands of a frozen language model's products in int8: none, the weights, or the weights and activations."""


def in_steps(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """rows [N, D] -> int8 [N, D] and float32 steps [N, 1], with ``rows ~ int8 * steps``.

    A row that is not finite gets a step that is not finite either, which makes its product not finite.
    """
    rows = rows.astype(jnp.float32)
    largest = jnp.abs(rows).max(axis=1, keepdims=True)
    steps = jnp.where(largest == 0, 1.0, largest / LEVELS)
    return jnp.rint(rows / steps).astype(jnp.int8), steps


def weights_product(rows: jax.Array, kernel: jax.Array, scale: jax.Array) -> jax.Array:
    """rows [N, D] times int8 kernel [D, M] with scales [M] -> float32 [N, M], multiplied in the rows' type."""
    return jnp.matmul(rows, kernel.astype(rows.dtype), preferred_element_type=jnp.float32) * scale


@jax.custom_vjp
def int8_product(rows: jax.Array, kernel: jax.Array, scale: jax.Array) -> jax.Array:
    """`weights_product` of rows that are rounded `in_steps`, multiplied in int8 and accumulated in int32.

    The gradient of rows is that of `weights_product`: it passes straight through their rounding, and is not rounded
    itself. Kernel and scale get no gradient.
    """
    rounded, steps = in_steps(rows)
    return jnp.matmul(rounded, kernel, preferred_element_type=jnp.int32) * steps * scale


def _forward(rows: jax.Array, kernel: jax.Array, scale: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return int8_product(rows, kernel, scale), (jnp.zeros((0,), rows.dtype), kernel, scale)


def _backward(kept: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    none_of_rows, kernel, scale = kept
    rows = jax.ShapeDtypeStruct((len(gradient), len(kernel)), none_of_rows.dtype)
    return *jax.linear_transpose(lambda rows: weights_product(rows, kernel, scale), rows)(gradient), None, None


int8_product.defvjp(_forward, _backward)


class Int8Linear(nnx.Module):
    """``x @ (kernel * scale) + bias``; the scale is applied to the product, which is equivalent and much smaller.

    No gradient reaches the kernel; the gradient of x is that of the dequantized product. ``w8a8``: see `int8_product`.
    Its adapter, if any (`lora.attach`), is computed in the compute type.
    """

    lora: Adapter | None = None

    def __init__(
        self,
        d_in: int,
        d_out: int,
        axes: tuple[str | None, str | None],
        *,
        bias: bool,
        w8a8: bool = False,
        dtype: DTypeLike,
        out_dtype: DTypeLike | None = None,
    ):
        self.w8a8 = w8a8
        self.dtype, self.out_dtype = dtype, out_dtype or dtype
        # Zeros, because int8 parameters are always loaded. `systems.build.abstract` reads "stored": their types do not
        # depend on the compute type.
        self.kernel = nnx.Param(jnp.zeros((d_in, d_out), jnp.int8), axes=axes, stored="int8")
        self.kernel_scale = nnx.Param(jnp.ones(d_out), axes=axes[1:], stored="float32")
        self.bias = nnx.Param(jnp.zeros(d_out), axes=axes[1:]) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        product = int8_product if self.w8a8 else weights_product
        out = product(rows, self.kernel[...], self.kernel_scale[...])
        if self.bias is not None:
            out = out + self.bias[...].astype(jnp.float32)
        out = checkpoint_name(out.astype(self.out_dtype), "product").reshape(*x.shape[:-1], -1)
        return out if self.lora is None else out + self.lora(x).astype(out.dtype)
