"""The interface of a model that decoding and evaluation use."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from instructblip_jax.decoding.draws import Seed
from instructblip_jax.decoding.options import Options
from instructblip_jax.systems.protocol import Context, Media, SystemConfig


class Model(Protocol):
    """`instructblip_jax.model.Model`, for a system that generates text."""

    config: SystemConfig

    def encode(
        self,
        batch: Mapping[str, Any],
        *,
        place: np.ndarray | None = None,
        own: np.ndarray | None = None,
        rows: int | None = None,
    ) -> Media: ...

    def prefill(self, media: Media, batch: Mapping[str, Any]) -> Context: ...

    def search(self, context: Context, options: Options, seed: Seed = 0) -> np.ndarray: ...

    def search_steps(self, context: Context, options: Options, seed: Seed, every: int) -> Iterator[np.ndarray]: ...

    def log_likelihood(self, context: Context, ids: np.ndarray, counted: np.ndarray) -> np.ndarray: ...
