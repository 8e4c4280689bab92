"""Which frames of a moving picture are taken, how they are stored, and the bounds that no file can leave.

Frames are stored as JPEG of quality 95 without chroma subsampling: videos are lossy already, and as PNG the frames of
MSRVTT-QA's test split alone would take about 40 GB, for nothing that the model sees.
"""

import io
from collections.abc import Sequence

from PIL import Image

from instructblip_jax.datasets.draft import Media
from instructblip_jax.processors.image import MAX_PIXELS

QUALITY = 95
MOST_FRAMES = 500_000
"""Of a video, more than four hours of it; those of a longer one are not even counted."""
MOST_DECODED = 10_000_000_000
"""Pixels that are decoded to find a video's frames: a minute or so."""
LONGER = 1.0
"""Seconds by which a file must be longer than the clip asked for, not to be taken for the clip itself."""
NO_FRAMES = "no frames"
CORRUPT = "truncated or corrupt video"


class UnusableMediaError(ValueError):
    """A picture or video that no record can hold. ``reason`` is one of few phrases, ``detail`` what is particular."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{detail}: {reason}" if detail else reason)
        self.reason, self.detail = reason, detail


def sample(count: int, frames: int) -> list[int]:
    """Numbers of the frames to take of ``count``: uniformly; where there are fewer, all, and the last again."""
    if count < frames:
        return [min(i, count - 1) for i in range(frames)]
    return [i * count // frames for i in range(frames)]


def encode(image: Image.Image) -> bytes:
    """A frame as it is stored."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


class Budget:
    """Counts decoded pixels."""

    def __init__(self, name: str):
        self._name, self._left = name, MOST_DECODED

    def spend(self, width: int, height: int) -> None:
        """Raise UnusableMediaError for a frame that is too large, or the one that is too many."""
        self._left -= width * height
        if width * height > MAX_PIXELS or self._left < 0:
            raise UnusableMediaError("too large", f"{self._name}: {width} x {height} pixels a frame")


def window(times: Sequence[float], duration: float, media: Media, name: str) -> list[int]:
    """Numbers of the frames between the clip's start and end, or of all where the file is the clip already."""
    end = duration if media.end is None else media.end
    if duration <= end - media.start + LONGER:
        return list(range(len(times)))
    inside = [number for number, time in enumerate(times) if media.start <= time < end]
    if not inside:
        detail = f"{name}: {duration:.1f} s long, asked for {media.start:g} to {end:g} s"
        raise UnusableMediaError("clip outside of the video", detail)
    return inside
