"""Base of systems whose image tower is frozen by default: its tokens may be computed once and cached on disk."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import nnx

from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.pixels import numbers
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.protocol import Batch, Media


class CachedTowerConfig:
    """Base of their configurations: frozen dataclasses with at least the field ``vision``."""

    vision: VitConfig

    feature_keys: ClassVar[Mapping[str, str]] = {"pixel_values": "image_features"}

    def feature_weights(self, path: str) -> bool:
        """All of the tower except its last norm, which may be trained."""
        return path.startswith("vit/") and not path.startswith("vit/post_norm/")

    def feature_settings(self) -> Mapping[str, Any]:
        """See `protocol.SystemConfig`."""
        # Parts that other towers lack are not named here, so that features cached by earlier versions are found.
        sizes = dataclasses.asdict(self.vision)
        return {"vision": {name: x for name, x in sizes.items() if not name.endswith(("_norm", "_bias"))}}

    def trains_features(self, trained: tuple[str, ...]) -> bool:
        """See `protocol.SystemConfig`."""
        return any(prefix == "" or (prefix.startswith("vit") and prefix != "vit/post_norm") for prefix in trained)


class CachedTower(nnx.Module):
    """Base of their modules, which have ``vit``, ``layout`` and ``train_tower``."""

    vit: Vit
    layout: Any
    train_tower: bool

    @in_layout_of("vit")
    def encode(self, batch: Batch) -> Media:
        """pixel_values [B, H, W, 3] -> {"image": image tokens [B, P, Dv]}; frames [B, F, H, W, 3] -> [B, F, P, Dv].

        Images may be bytes with their scale (`instructblip_jax.pixels`). A batch may contain "image_features" instead,
        computed by `features`.
        """
        return {"image": self.vit.post_norm(self.tokens(batch))}

    @in_layout_of("vit")
    def tokens(self, batch: Batch) -> jax.Array:
        """The tokens of `encode` before the last norm; no gradient enters a frozen tower."""
        features = batch.get("image_features")
        if features is None:
            features = self.features(batch)["pixel_values"]
            if not self.train_tower:  # the norm may still be trained (the `original` set)
                features = jax.lax.stop_gradient(features)
        return features

    @in_layout_of("vit")
    def features(self, batch: Batch) -> dict[str, jax.Array]:
        """The part of `encode` that training does not change: everything except the last norm."""
        pixels = numbers(batch, "pixel_values")
        features = self.vit.features(pixels.reshape(-1, *pixels.shape[-3:]))
        return {"pixel_values": features.reshape(*pixels.shape[:-3], *features.shape[1:])}
