"""BEATs (arXiv 2212.09058), X-InstructBLIP's audio tower: a post-norm transformer over patches of a filter bank."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import Attention, attend, mask_bias
from instructblip_jax.models.layers.primitives import ACTIVATIONS, layer_norm, linear, parameter
from instructblip_jax.models.layers.relative_bias import relative_bias
from instructblip_jax.sharding import constrain

EPSILON = 1e-5
"""The epsilon of all norms, torch's default."""
GATES = 8
"""Outputs of a gate's linear map: two gates, each the sigmoid of the sum of four outputs."""


@dataclasses.dataclass(frozen=True)
class BeatsConfig:
    """Sizes, under the names of the public files' "cfg"; the defaults are those of BEATs iter3+ AS2M.

    Attributes:
      input_patch_size: frames and mel bands of a patch.
      embed_dim: channels of the patch convolution.
      conv_bias: the patch convolution has a bias.
      conv_pos: taps of the position convolution over the tokens.
      conv_pos_groups: its groups of channels.
      num_buckets: rows of the table of relative positions, half of them for later keys.
      max_distance: distance in tokens beyond which all share a row.
      deep_norm: residuals are scaled by (2 L)^(1/4) for L layers (arXiv 2203.00555), else by 1.
    """

    input_patch_size: int = 16
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    deep_norm: bool = True

    @property
    def width(self) -> int:
        """Width D of the tokens."""
        return self.encoder_embed_dim

    @property
    def residual_scale(self) -> float:
        """Factor of each residual: deep norm's alpha, or 1."""
        return (2 * self.encoder_layers) ** 0.25 if self.deep_norm else 1.0

    def tokens(self, frames: int, mels: int) -> int:
        """Number of tokens P for a block of T frames of M mel bands: only whole patches count."""
        return (frames // self.input_patch_size) * (mels // self.input_patch_size)


class PositionConvolution(nnx.Module):
    """Convolution over the tokens [B, P, D] with weight normalisation for each tap (weight norm, arXiv 1602.07868)."""

    def __init__(self, config: BeatsConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width, taps, groups = config.encoder_embed_dim, config.conv_pos, config.conv_pos_groups
        self.groups, self.dtype = groups, dtype
        std = math.sqrt(4 / (taps * width))  # of wav2vec 2.0, from which this convolution comes
        self.direction = parameter((taps, width // groups, width), (None, None, "embed"), std=std, rngs=rngs)
        self.length = nnx.Param(jnp.full(taps, std * width / math.sqrt(groups)), axes=(None,))
        self.bias = nnx.Param(jnp.zeros(width), axes=("embed",))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, P, D] -> the same shape, with zero padding at both ends."""
        direction = self.direction[...].astype(jnp.float32)
        length = self.length[...].astype(jnp.float32)[:, None, None]
        kernel = direction * (length * jax.lax.rsqrt(jnp.sum(jnp.square(direction), (1, 2), keepdims=True)))
        # A grouped kernel cannot be sharded; it is small, and every device has all of it.
        kernel = constrain(kernel.astype(self.dtype), None, None, None)
        taps = kernel.shape[0]
        out = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel,
            (1,),
            [(taps // 2, (taps - 1) // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )
        return out + self.bias[...].astype(out.dtype)


class Layer(nnx.Module):
    """Post-norm transformer layer whose attention has a relative-position bias gated by each query."""

    def __init__(self, config: BeatsConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width, heads, inner = config.encoder_embed_dim, config.encoder_attention_heads, config.encoder_ffn_embed_dim
        size = width // heads
        self.residual_scale, self.size = config.residual_scale, size
        self.attn = Attention(width, heads, size, scale=1.0, dtype=dtype, rngs=rngs)  # the gates read unscaled queries
        self.gate = linear(size, GATES, (None, None), dtype=dtype, out_dtype=jnp.float32, rngs=rngs)
        self.gate_scale = nnx.Param(jnp.ones(heads), axes=("heads",))
        self.attn_norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)
        self.up = linear(width, inner, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.down = linear(inner, width, ("mlp", "embed"), dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation_fn]

    def gates(self, queries: jax.Array) -> jax.Array:
        """Unscaled queries [B, P, H, K] -> the factor of each query's position bias, float32 [B, H, P, 1]."""
        eight = self.gate(queries)  # [B, P, H, 8]
        two = jax.nn.sigmoid(jnp.sum(eight.reshape(*eight.shape[:-1], 2, GATES // 2), axis=-1))
        factor = two[..., 0] * (two[..., 1] * self.gate_scale[...].astype(jnp.float32) - 1.0) + 2.0  # [B, P, H]
        return factor.swapaxes(1, 2)[..., None]

    def __call__(self, x: jax.Array, position: jax.Array, hidden: jax.Array | None) -> jax.Array:
        """x [B, P, D] -> the same shape. ``position``: bias of all layers, float32 [1, H, P, P]; ``hidden``: of masked
        keys, float32 [B, 1, 1, P], or None."""
        queries = self.attn.queries(x)
        bias = self.gates(queries) * position  # [B, H, P, P]
        bias = bias if hidden is None else bias + hidden
        keys, values = self.attn.keys_values(x)
        mixed = attend(queries * self.size**-0.5, [(keys, values, bias)])
        x = self.attn_norm(x * self.residual_scale + self.attn.output(mixed))
        return self.norm(x * self.residual_scale + self.down(self.activation(self.up(x))))


class Beats(nnx.Module):
    """Filter banks [B, T, M], normalised -> tokens [B, P, D]: patches by time, and at one time by frequency.

    Frames and bands after the last whole patch are not read. ``remat``: the activations kept for the backward pass, a
    name in `stack.REMAT`.
    """

    def __init__(self, config: BeatsConfig, *, dtype: DTypeLike, rngs: nnx.Rngs, remat: str = "none"):
        self.config, self.dtype, self.remat = config, dtype, remat
        width, channels, patch = config.encoder_embed_dim, config.embed_dim, config.input_patch_size
        kind: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.patch = linear(patch * patch, channels, (None, "embed"), bias=config.conv_bias, **kind)
        self.patch_norm = layer_norm(channels, EPSILON, **kind)
        self.projection = linear(channels, width, (None, "embed"), **kind) if channels != width else None
        self.position = PositionConvolution(config, **kind)
        self.norm = layer_norm(width, EPSILON, **kind)
        self.relative = parameter((config.num_buckets, config.encoder_attention_heads), (None, "heads"), rngs=rngs)
        self.layers = stack.build(lambda rngs: Layer(config, dtype=dtype, rngs=rngs), config.encoder_layers, rngs)

    def embed(self, fbank: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[B, T, M] -> the first layer's input [B, P, D]; see `__call__`."""
        patch = self.config.input_patch_size
        rows, columns = fbank.shape[1] // patch, fbank.shape[2] // patch
        if not rows * columns:
            raise ValueError(
                f"audio_values {fbank.shape}: this audio tower's patches are {patch} frames by {patch} bands"
            )
        x = fbank[:, : rows * patch, : columns * patch].astype(self.dtype)
        x = x.reshape(-1, rows, patch, columns, patch).swapaxes(2, 3).reshape(-1, rows * columns, patch * patch)
        x = self.patch_norm(self.patch(x))
        if self.projection is not None:
            x = self.projection(x)
        if mask is not None:
            x = jnp.where(mask[..., None].astype(bool), x, jnp.zeros((), x.dtype))
        return self.norm(x + ACTIVATIONS["gelu"](self.position(x)))

    def __call__(self, fbank: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """``mask`` [B, P]: true or 1 for real tokens; the others are masked. None: all are real.

        Raises ValueError for filter banks without a whole patch.
        """
        x = self.embed(fbank, mask)
        length = x.shape[1]
        position = relative_bias(
            self.relative[...], length, length, bidirectional=True, max_distance=self.config.max_distance
        )
        hidden = None if mask is None else mask_bias(mask)
        body = lambda layer, x: (layer(x, position, hidden), None)
        return stack.run(self.layers, x, body, remat=self.remat)[0]
