"""PointBERT (arXiv 2111.14819) and its projection as in ULIP-2 (arXiv 2305.08275), X-InstructBLIP's point tower."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.primitives import gelu, layer_norm, linear, parameter
from instructblip_jax.models.towers.vit import Block, VitConfig

EPSILON = 1e-5
"""The epsilon of all norms, torch's default."""
CHUNK = 64
"""Number of centres whose distances to all points are in memory at once: 2 MB per cloud of 8192 points."""


@dataclasses.dataclass(frozen=True)
class PointBertConfig:
    """Sizes, under the names of the public code; the defaults are ULIP-2's for 8192 points without colour.

    Attributes:
      group_size: points of a patch, M.
      num_group: patches of a cloud, G.
      encoder_dims: width of the small PointNet's output.
      channels: its inner widths.
      position_hidden: inner width of the map from a patch's centre to its position embedding.
      embed_dim: width E of the output.
    """

    trans_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    group_size: int = 32
    num_group: int = 512
    encoder_dims: int = 256
    channels: tuple[int, int, int] = (128, 256, 512)
    position_hidden: int = 128
    embed_dim: int = 512

    @property
    def width(self) -> int:
        """Width E of the output."""
        return self.embed_dim


def farthest(points: jax.Array, count: int) -> jax.Array:
    """Farthest-point sampling: points float32 [B, N, 3] -> indices int32 [B, count].

    The first is point 0, each other one the farthest from all previous ones; of several the one with the lowest index.
    If a cloud has fewer distinct points, some are repeated.
    """

    def pick(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        distance, chosen = carry
        at = jnp.take_along_axis(points, chosen[:, None, None], axis=1)  # [B, 1, 3]
        distance = jnp.minimum(distance, jnp.sum(jnp.square(points - at), axis=-1))
        return (distance, jnp.argmax(distance, axis=-1).astype(jnp.int32)), chosen

    start = (jnp.full(points.shape[:2], jnp.inf, points.dtype), jnp.zeros(points.shape[0], jnp.int32))
    return jax.lax.scan(pick, start, None, length=count)[1].T


def nearest(points: jax.Array, centres: jax.Array, count: int) -> jax.Array:
    """The points nearest to each centre: [B, N, 3] and [B, G, 3] -> indices int32 [B, G, count], nearest first, of
    several the one with the lowest index."""

    def of_one(centre: jax.Array) -> jax.Array:
        """[B, 3] -> [B, count]."""
        distance = jnp.sum(jnp.square(points - centre[:, None]), axis=-1)  # differences: products would lose small ones
        return jax.lax.top_k(-distance, count)[1]

    return jax.lax.map(of_one, centres.swapaxes(0, 1), batch_size=CHUNK).swapaxes(0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def largest(x: jax.Array, axis: int) -> jax.Array:
    """The largest entries along an axis, which stays; of equal ones the first gets the gradient, as in torch.

    `jnp.max` divides its gradient by the number of entries that equal the result. If XLA computes the entries twice
    with different roundings, this number is 0 and the gradient NaN.
    """
    return jnp.max(x, axis=axis, keepdims=True)


def _largest_forward(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis % x.ndim)
    return largest(x, axis), places == jnp.argmax(x, axis=axis, keepdims=True)


def _largest_backward(axis: int, first: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    del axis
    return (jnp.where(first, gradient, jnp.zeros((), gradient.dtype)),)


largest.defvjp(_largest_forward, _largest_backward)


class RunningNorm(nnx.Module):
    """Batch norm with its running statistics, as in evaluation; they are parameters, so that files contain them."""

    def __init__(self, width: int, *, dtype: DTypeLike):
        self.dtype = dtype
        self.scale, self.variance = (nnx.Param(jnp.ones(width), axes=("embed",)) for _ in range(2))
        self.bias, self.mean = (nnx.Param(jnp.zeros(width), axes=("embed",)) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> the same shape, in float32 up to the result."""
        scale, bias, mean, variance = (
            p[...].astype(jnp.float32) for p in (self.scale, self.bias, self.mean, self.variance)
        )
        return ((x - mean) * (scale * jax.lax.rsqrt(variance + EPSILON)) + bias).astype(self.dtype)


class PatchEncoder(nnx.Module):
    """A small PointNet (arXiv 1612.00593): the points of each patch [B, G, M, 3] -> its feature [B, G, C]."""

    def __init__(self, config: PointBertConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        first, second, third = config.channels
        kind: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.dtype = dtype
        self.first = linear(3, first, (None, "embed"), **kind)
        self.first_norm = RunningNorm(first, dtype=dtype)
        self.second = linear(first, second, ("embed", None), **kind)
        self.third = linear(2 * second, third, ("embed", None), **kind)
        self.third_norm = RunningNorm(third, dtype=dtype)
        self.fourth = linear(third, config.encoder_dims, ("embed", None), **kind)

    def __call__(self, patches: jax.Array) -> jax.Array:
        x = self.second(jax.nn.relu(self.first_norm(self.first(patches.astype(self.dtype)))))
        x = jnp.concatenate([jnp.broadcast_to(largest(x, -2), x.shape), x], axis=-1)  # [B, G, M, 2 C']
        return largest(self.fourth(jax.nn.relu(self.third_norm(self.third(x)))), -2)[..., 0, :]


class PointBert(nnx.Module):
    """Points [B, N, 3], normalised to the unit sphere -> one vector per cloud, [B, 1, E], not normalised.

    The choice of centres and neighbours has no gradient; their coordinates have. ``remat``: the activations kept for
    the backward pass, a name in `stack.REMAT`.
    """

    def __init__(self, config: PointBertConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none"):
        self.config, self.dtype, self.remat = config, dtype, remat
        width = config.trans_dim
        kind: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.patches = PatchEncoder(config, **kind)
        self.reduce = linear(config.encoder_dims, width, (None, "embed"), **kind)
        self.class_token = parameter((1, width), (None, "embed"), rngs=rngs)
        self.class_position = parameter((1, width), (None, "embed"), rngs=rngs)
        self.position_up = linear(3, config.position_hidden, (None, "mlp"), **kind)
        self.position_down = linear(config.position_hidden, width, ("mlp", "embed"), **kind)
        block = VitConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=config.num_heads,
            layer_norm_eps=EPSILON,
        )
        self.layers = stack.build(lambda rngs: Block(block, qkv_bias=False, dtype=dtype, rngs=rngs), config.depth, rngs)
        self.norm = layer_norm(width, EPSILON, **kind)
        self.projection = linear(2 * width, config.embed_dim, ("embed", None), bias=False, **kind)

    def group(self, points: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Points float32 [B, N, 3] -> centres of patches [B, G, 3], and their points relative to them, [B, G, M, 3]."""
        fixed = jax.lax.stop_gradient(points)
        picks = farthest(fixed, self.config.num_group)  # [B, G]
        centres = jnp.take_along_axis(points, picks[..., None], axis=1)
        index = nearest(fixed, jax.lax.stop_gradient(centres), self.config.group_size)  # [B, G, M]
        own = jnp.take_along_axis(points, index.reshape(index.shape[0], -1, 1), axis=1).reshape(*index.shape, 3)
        return centres, own - centres[:, :, None]

    def embed(self, points: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, N, 3] -> the first block's input, and the positions added before every block, each [B, 1 + G, D]."""
        if points.ndim != 3 or points.shape[-1] != 3 or points.shape[1] < self.config.group_size:
            raise ValueError(
                f"point_values {points.shape}: this tower takes [B, N, 3] with N at least {self.config.group_size}"
            )
        centres, patches = self.group(points.astype(jnp.float32))
        position = self.position_down(gelu(self.position_up(centres.astype(self.dtype))))  # [B, G, D]
        return (
            _behind(self.class_token[...], self.reduce(self.patches(patches))),
            _behind(self.class_position[...], position),
        )

    def features(self, points: jax.Array) -> jax.Array:
        """[B, N, 3] -> the last norm's tokens [B, 1 + G, D], class token first."""
        x, position = self.embed(points)
        return self.norm(stack.run(self.layers, x, lambda block, x: (block(x + position), None), remat=self.remat)[0])

    def __call__(self, points: jax.Array) -> jax.Array:
        """Raises ValueError for another shape, or fewer points than a patch has."""
        x = self.features(points)
        return self.projection(jnp.concatenate([x[:, :1], largest(x[:, 1:], 1)], axis=-1))


def _behind(first: jax.Array, x: jax.Array) -> jax.Array:
    """x [B, G, D] after the same token [1, D] in each row -> [B, 1 + G, D]."""
    return jnp.concatenate([jnp.broadcast_to(first.astype(x.dtype), (x.shape[0], *first.shape)), x], axis=1)
