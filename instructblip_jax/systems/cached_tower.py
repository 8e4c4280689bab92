"""The base of systems whose image tower is frozen by default: its tokens may be computed once and kept on disk."""

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
    """The base of their configurations: frozen dataclasses with at least the field ``vision``."""

    vision: VitConfig

    feature_keys: ClassVar[Mapping[str, str]] = {"pixel_values": "image_features"}

    def feature_weights(self, path: str) -> bool:
        """All of the tower but its last norm, which may train."""
        return path.startswith("vit/") and not path.startswith("vit/post_norm/")

    def feature_settings(self) -> Mapping[str, Any]:
        """See `protocol.SystemConfig`."""
        # The parts that other towers lack have no name here, so that features that earlier versions cached are found.
        sizes = dataclasses.asdict(self.vision)
        return {"vision": {name: x for name, x in sizes.items() if not name.endswith(("_norm", "_bias"))}}

    def trains_features(self, trained: tuple[str, ...]) -> bool:
        """See `protocol.SystemConfig`."""
        return any(prefix == "" or (prefix.startswith("vit") and prefix != "vit/post_norm") for prefix in trained)


class CachedTower(nnx.Module):
    """The base of their modules, which have ``vit``, ``layout`` and ``train_tower``."""

    vit: Vit
    layout: Any
    train_tower: bool

    @in_layout_of("vit")
    def encode(self, batch: Batch) -> Media:
        """pixel_values [B, H, W, 3] -> {"image": image tokens [B, P, Dv]}; frames [B, F, H, W, 3] -> [B, F, P, Dv].

        Pictures may be bytes beside their scale (`instructblip_jax.pixels`). A batch may hold "image_features" instead,
        which `features` made.
        """
        return {"image": self.vit.post_norm(self.tokens(batch))}

    @in_layout_of("vit")
    def tokens(self, batch: Batch) -> jax.Array:
        """The tokens of `encode` before the last norm; no gradient enters a tower that is frozen."""
        features = batch.get("image_features")
        if features is None:
            features = self.features(batch)["pixel_values"]
            if not self.train_tower:  # the norm may train all the same (the `original` set)
                features = jax.lax.stop_gradient(features)
        return features

    @in_layout_of("vit")
    def features(self, batch: Batch) -> dict[str, jax.Array]:
        """The part of `encode` that stays the same whatever is trained: everything but the last norm."""
        pixels = numbers(batch, "pixel_values")
        features = self.vit.features(pixels.reshape(-1, *pixels.shape[-3:]))
        return {"pixel_values": features.reshape(*pixels.shape[:-3], *features.shape[1:])}
