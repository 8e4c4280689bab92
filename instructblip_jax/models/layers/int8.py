"""Weight-only int8 for frozen matrices: one byte per weight, one scale per output channel, computed in ``dtype``.

Symmetric absmax quantization of each column, without calibration (W8A16).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

LEVELS = 127
"""The largest stored magnitude; -128 is not used, so that the range is symmetric."""


def quantize(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """kernel [D, M] -> int8 [D, M] and float32 scales [M], with ``kernel ~ int8 * scale``. Runs on the host."""
    kernel = kernel.astype(np.float32)
    scale = np.abs(kernel).max(axis=0) / LEVELS
    scale = np.where(scale > 0, scale, np.float32(1))  # a column of zeros
    return np.rint(kernel / scale).astype(np.int8), scale


class Int8Linear(nnx.Module):
    """``x @ (kernel * scale) + bias``; the scale is applied to the product, which is equivalent and much smaller.

    No gradient reaches the kernel; the gradient of x is that of the dequantized product.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        axes: tuple[str | None, str | None],
        *,
        bias: bool,
        dtype: DTypeLike,
        out_dtype: DTypeLike | None = None,
    ):
        self.dtype, self.out_dtype = dtype, out_dtype or dtype
        # Zeros, because int8 parameters are always loaded. `systems.build.abstract` reads "stored": their types do not
        # follow the compute type.
        self.kernel = nnx.Param(jnp.zeros((d_in, d_out), jnp.int8), axes=axes, stored="int8")
        self.kernel_scale = nnx.Param(jnp.ones(d_out), axes=axes[1:], stored="float32")
        self.bias = nnx.Param(jnp.zeros(d_out), axes=axes[1:]) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        out = jnp.matmul(rows, self.kernel[...].astype(self.dtype), preferred_element_type=jnp.float32)
        out = out * self.kernel_scale[...]
        if self.bias is not None:
            out = out + self.bias[...].astype(jnp.float32)
        return checkpoint_name(out.astype(self.out_dtype), "product").reshape(*x.shape[:-1], -1)
