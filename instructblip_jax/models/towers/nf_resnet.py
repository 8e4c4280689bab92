"""NF-ResNet (arXiv 2101.08692), Frozen's tower: a residual network with weight standardisation instead of norms."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.primitives import parameter

GAMMA = 1.7139588594436646
"""Makes the variance of a unit normal's ReLU one (section 3 of the paper)."""
EPSILON = 1e-4
"""The least variance, times the number of inputs, that weights are divided by."""
BRANCH = 0.2
"""The paper's alpha: the scale of each residual branch."""


@dataclasses.dataclass(frozen=True)
class NfResNetConfig:
    """Sizes; the defaults are NF-ResNet-50's.

    Attributes:
      widths: channels of each stage.
      depths: blocks of each stage; except in the first stage, the first block halves the resolution.
      stem_width: channels of the first convolution.
      image_size: pixels along a side of an image; any size is possible.
    """

    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem_width: int = 64
    image_size: int = 224

    @property
    def hidden_size(self) -> int:
        """Channels of the pooled output."""
        return self.widths[-1]

    def at(self, image_size: int) -> "NfResNetConfig":
        """The same tower for images of ``image_size`` pixels per side; 0 keeps the current size."""
        if image_size < 0:
            raise ValueError(f"image_size {image_size} is negative")
        return dataclasses.replace(self, image_size=image_size or self.image_size)


def shrinkage(blocks: int) -> float:
    """The factor of a block's input, ``blocks`` blocks after the last first block of a stage: one over its expected
    standard deviation."""
    return 1 / math.sqrt(1 + BRANCH**2 * blocks)


class Conv(nnx.Module):
    """A convolution with standardised weights, gains and biases [O]; its kernel is [K, K, I, O]."""

    def __init__(self, size: int, inputs: int, outputs: int, *, stride: int = 1, dtype: DTypeLike, rngs: nnx.Rngs):
        self.stride, self.dtype = stride, dtype
        scale = (size * size * inputs) ** -0.5
        self.kernel = parameter((size, size, inputs, outputs), (None, None, None, "embed"), std=scale, rngs=rngs)
        self.gain = nnx.Param(jnp.ones(outputs), axes=("embed",))
        self.bias = nnx.Param(jnp.zeros(outputs), axes=("embed",))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, I] -> [B, H', W', O], padded so that H' is H / stride, rounded up."""
        weights = self.kernel[...].astype(jnp.float32)
        inputs = weights.size // weights.shape[-1]
        mean, variance = weights.mean((0, 1, 2)), weights.var((0, 1, 2))
        weights = (weights - mean) * (self.gain[...] * jax.lax.rsqrt(jnp.maximum(variance * inputs, EPSILON)))
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            weights.astype(self.dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ) + self.bias[...].astype(self.dtype)


def activation(x: jax.Array) -> jax.Array:
    """A ReLU that keeps the variance."""
    return jax.nn.relu(x) * GAMMA


class Block(nnx.Module):
    """A bottleneck [B, H, W, I] -> [B, H', W', O], with a convolution on the shortcut if the shapes differ
    (``first``)."""

    def __init__(
        self, inputs: int, width: int, *, stride: int = 1, first: bool = False, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        inner = width // 4
        self.conv0 = Conv(1, inputs, inner, dtype=dtype, rngs=rngs)
        self.conv1 = Conv(3, inner, inner, stride=stride, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(1, inner, width, dtype=dtype, rngs=rngs)
        self.shortcut = Conv(1, inputs, width, stride=stride, dtype=dtype, rngs=rngs) if first else None
        self.skip_gain = nnx.Param(jnp.zeros(1), axes=(None,))

    def __call__(self, x: jax.Array, factor: jax.Array | float) -> jax.Array:
        """``factor``: see `shrinkage`."""
        h = activation(x) * jnp.asarray(factor, x.dtype)
        beside = x if self.shortcut is None else self.shortcut(h)
        h = self.conv2(activation(self.conv1(activation(self.conv0(h)))))
        return h * (self.skip_gain[...] * BRANCH).astype(h.dtype) + beside


class Stage(nnx.Module):
    """Blocks of one width."""

    def __init__(self, inputs: int, width: int, depth: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        beside = stride > 1 or inputs != width
        self.depth = depth
        self.first = Block(inputs, width, stride=stride, first=beside, dtype=dtype, rngs=rngs)
        make = lambda rngs: Block(width, width, dtype=dtype, rngs=rngs)
        self.rest = stack.build(make, depth - 1, rngs) if depth > 1 else None

    def __call__(self, x: jax.Array, before: int, remat: str) -> jax.Array:
        """``before``: number of blocks of the previous stage."""
        x = self.first(x, shrinkage(before))
        if self.rest is None:
            return x
        factors = jnp.array([shrinkage(n) for n in range(1, self.depth)], x.dtype)
        return stack.run(self.rest, x, lambda block, x, own: (block(x, own), None), factors, remat=remat)[0]


class NfResNet(nnx.Module):
    """Pixels [B, H, W, 3] -> the mean over all positions, [B, C]. ``remat``: see `stack.run`."""

    def __init__(self, config: NfResNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none"):
        self.config, self.remat = config, remat
        self.stem = Conv(7, 3, config.stem_width, stride=2, dtype=dtype, rngs=rngs)
        inputs = config.stem_width
        for n, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            setattr(self, stage_name(n), Stage(inputs, width, depth, 2 if n else 1, dtype=dtype, rngs=rngs))
            inputs = width

    def __call__(self, pixels: jax.Array) -> jax.Array:
        x = nnx.max_pool(self.stem(pixels), (3, 3), strides=(2, 2), padding="SAME")
        for n, before in enumerate((0, *self.config.depths[:-1])):
            x = getattr(self, stage_name(n))(x, before, self.remat)
        return activation(x).astype(jnp.float32).mean((1, 2)).astype(x.dtype)


def stage_name(number: int) -> str:
    """The name of a stage, counted from 0."""
    return f"stage{number}"
