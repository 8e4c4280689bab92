"""Frames of a video's clip, as JPEG."""

from collections.abc import Sequence
from typing import BinaryIO

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.media.frames import encode, sample, window
from instructblip_jax.processors.video import pictures


def decoded(file: BinaryIO, container: str, media: Media, frames: int, name: str) -> tuple[bytes, ...]:
    """``frames`` frames of a ``container`` file, sampled uniformly, as JPEG. Raises UnusableMediaError."""

    def choose(times: Sequence[float], duration: float) -> list[int]:
        inside = window(times, duration, media, name)
        return [inside[n] for n in sample(len(inside), frames)]

    return tuple(map(encode, pictures(file, container, choose, name)))
