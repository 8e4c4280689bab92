"""The parts of a model and of a processor that decoding and evaluation need."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from instructblip_jax.decoding.options import Options
from instructblip_jax.systems.protocol import Context, Media, SystemConfig


class Model(Protocol):
    """`instructblip_jax.model.Model`, of a system that writes text."""

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

    def search(self, context: Context, options: Options, seed: int = 0) -> np.ndarray: ...

    def search_steps(self, context: Context, options: Options, seed: int, every: int) -> Iterator[np.ndarray]: ...

    def log_likelihood(self, context: Context, ids: np.ndarray, counted: np.ndarray) -> np.ndarray: ...


class Processor(Protocol):
    """`processors.base.BaseProcessor`."""

    def rows(self, images: Any, count: int | None, *, share: bool = False) -> list[Any]: ...

    def checked(self, texts: str | Sequence[str], what: str, count: int) -> list[str]: ...

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False
    ) -> dict[str, np.ndarray]: ...

    def response(self, text: str) -> np.ndarray: ...

    def media_of(self, rows: Sequence[Any]) -> dict[str, np.ndarray]: ...

    def batch(
        self, rows: Sequence[Mapping[str, np.ndarray]], prompt: int, response: int = 0, *, training: bool = True
    ) -> dict[str, np.ndarray]: ...

    def blank(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def decode(self, ids: np.ndarray) -> list[str]: ...

    def settled(self, text: str) -> str: ...
