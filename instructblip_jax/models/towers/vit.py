"""The vision tower: a ViT with a class token and learned positions.

EVA-CLIP's ViT-g/14 (InstructBLIP, BLIP-2: cut to 39 blocks in the public checkpoints), CLIP's own (LLaVA, KOSMOS), and
those of ALBEF and BLIP, which were pre-trained on ImageNet.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import Attention
from instructblip_jax.models.layers.primitives import ACTIVATIONS, layer_norm, linear, parameter


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Sizes of the tower; the defaults are those of the public InstructBLIP checkpoints (Hugging Face class defaults).

    Attributes:
      patch_bias: the patch convolution has a bias; CLIP's has none.
      pre_norm: a norm follows the embeddings, as in CLIP.
      post_norm: a norm follows the last block. CLIP's is only for its class token, and LLaVA does not use it.
    """

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    patch_bias: bool = True
    pre_norm: bool = False
    post_norm: bool = True

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    def at(self, image_size: int) -> "VitConfig":
        """The same tower for images of ``image_size`` pixels per side; 0 keeps the current size.

        Raises ValueError for a size that is not a multiple of the patch size, naming the nearest ones that are.
        """
        if image_size < 0 or image_size % self.patch_size:
            below = max(1, image_size // self.patch_size) * self.patch_size
            raise ValueError(
                f"image_size {image_size} is not a positive multiple of this vision tower's patch size "
                f"{self.patch_size}; take {below} or {below + self.patch_size}, or 0 for the checkpoint's own "
                f"{self.image_size}"
            )
        return dataclasses.replace(self, image_size=image_size or self.image_size)


class Block(nnx.Module):
    """Pre-norm transformer block without layer scale. ``qkv_bias``: see `Attention`."""

    def __init__(self, config: VitConfig, *, qkv_bias: bool = True, dtype: DTypeLike, rngs: nnx.Rngs):
        width, heads = config.hidden_size, config.num_attention_heads
        self.norm1 = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        self.attn = Attention(width, heads, width // heads, qkv_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(width, config.layer_norm_eps, dtype=dtype, rngs=rngs)
        self.up = linear(width, config.intermediate_size, ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.down = linear(config.intermediate_size, width, ("mlp", "embed"), dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: jax.Array, share: jax.Array | None = None) -> jax.Array:
        """x [B, P, D] -> [B, P, D]. ``share`` [2, B]: factors of each row's two branches, 1 by default."""
        h = self.norm1(x)
        x = x + _times(self.attn(h, *self.attn.keys_values(h)), share, 0)
        return x + _times(self.down(self.activation(checkpoint_name(self.up(self.norm2(x)), "up"))), share, 1)


def _times(branch: jax.Array, share: jax.Array | None, number: int) -> jax.Array:
    return branch if share is None else branch * share[number, :, None, None].astype(branch.dtype)


def shares(key: jax.Array, rate: float, layers: int, rows: int) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): factors float32 [layers, 2, rows] of the branches, 0 with a probability that
    rises from 0 in the first layer to ``rate`` in the last one, otherwise such that their mean is 1."""
    kept = 1.0 - jnp.linspace(0.0, rate, layers)[:, None, None]
    return jnp.where(jax.random.uniform(key, (layers, 2, rows)) < kept, 1.0 / kept, 0.0)


class Vit(nnx.Module):
    """Pixels [B, H, W, 3] -> tokens [B, P, D], class token first (P = grid * grid + 1), normalised by the last norm.

    ``remat``: the activations kept for the backward pass, a name in `stack.REMAT`. ``drop_path``: the rate of
    stochastic depth in the last block (`shares`), if a key is given. ``last_apart``: the last block is a separate
    module, so that it can be trained while the stack is frozen (KOSMOS-1); such a tower has no `drop_path`.
    """

    def __init__(
        self,
        config: VitConfig,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        remat: str = "none",
        drop_path: float = 0.0,
        last_apart: bool = False,
    ):
        self.config, self.dtype, self.remat, self.drop_path = config, dtype, remat, drop_path
        width, patch = config.hidden_size, config.patch_size
        self.patch = linear(patch * patch * 3, width, (None, "embed"), bias=config.patch_bias, dtype=dtype, rngs=rngs)
        self.class_token = parameter((1, width), (None, "embed"), rngs=rngs)
        self.position = parameter((config.grid**2 + 1, width), (None, "embed"), rngs=rngs)
        self.pre_norm = self._norm(config.pre_norm, rngs)
        depth = config.num_hidden_layers - last_apart
        self.layers = stack.build(lambda rngs: Block(config, dtype=dtype, rngs=rngs), depth, rngs)
        self.last = Block(config, dtype=dtype, rngs=rngs) if last_apart else None
        # LAVIS's ln_vision: not part of the frozen tower there, and part of the `original` trainable set here.
        self.post_norm = self._norm(config.post_norm, rngs)

    def _norm(self, present: bool, rngs: nnx.Rngs) -> Any:
        config = self.config
        return layer_norm(config.hidden_size, config.layer_norm_eps, dtype=self.dtype, rngs=rngs) if present else None

    def features(self, pixels: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Pixels [B, H, W, 3] -> the last block's tokens [B, P, D], before the final norm. ``key``: for `drop_path`.

        Raises ValueError for images of another size than the tower's, and for bytes.
        """
        config, grid, patch = self.config, self.config.grid, self.config.patch_size
        if pixels.shape[1:] != (config.image_size, config.image_size, 3):
            raise ValueError(
                f"pixel_values {pixels.shape}: this vision tower takes [B, {config.image_size}, {config.image_size}, 3]"
            )
        if not jnp.issubdtype(pixels.dtype, jnp.floating):
            raise ValueError(f"pixel_values are {pixels.dtype}: a tower takes normalised ones")
        x = pixels.astype(self.dtype).reshape(-1, grid, patch, grid, patch, 3)
        x = x.swapaxes(2, 3).reshape(-1, grid * grid, patch * patch * 3)
        x = self.patch(x)
        first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([first, x], axis=1) + self.position[...].astype(x.dtype)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        if key is None or self.drop_path == 0:
            x = stack.run(self.layers, x, lambda block, x: (block(x), None), remat=self.remat)[0]
            return x if self.last is None else self.last(x)
        factors = shares(key, self.drop_path, config.num_hidden_layers, x.shape[0])
        return stack.run(self.layers, x, lambda block, x, own: (block(x, own), None), factors, remat=self.remat)[0]

    def __call__(self, pixels: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        x = self.features(pixels, key=key)
        return x if self.post_norm is None else self.post_norm(x)
