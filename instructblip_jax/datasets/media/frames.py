"""Selection and encoding of the frames of videos and animations.

Frames are stored as JPEG of quality 95 without chroma subsampling. Videos are already lossy; as PNG, the frames of
MSRVTT-QA's test split alone would take about 40 GB without any benefit for the model.
"""

import io
from collections.abc import Sequence

from PIL import Image

from instructblip_jax.datasets.draft import Media
from instructblip_jax.processors.content import UnusableMediaError

QUALITY = 95
LONGER = 1.0
"""Seconds. A file that exceeds the length of the requested clip by less than this is treated as the clip itself."""


def sample(count: int, frames: int) -> list[int]:
    """Indices of ``frames`` frames out of ``count``: the floor(i * count / frames)-th ones. If there are fewer, all of
    them, with the last one repeated."""
    if count < frames:
        return [min(i, count - 1) for i in range(frames)]
    return [i * count // frames for i in range(frames)]


def encode(image: Image.Image) -> bytes:
    """A frame as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def window(times: Sequence[float], duration: float, media: Media, name: str) -> list[int]:
    """Indices of the frames between the clip's start and end; of all frames if the file is already the clip.

    Args:
      times: start time of each frame, in seconds.
      duration: of the whole file, in seconds.

    Raises:
      UnusableMediaError: no frame is within the clip.
    """
    end = duration if media.end is None else media.end
    if duration <= end - media.start + LONGER:
        return list(range(len(times)))
    inside = [number for number, time in enumerate(times) if media.start <= time < end]
    if not inside:
        detail = f"{name}: {duration:.1f} s long, but the clip is {media.start:g} to {end:g} s"
        raise UnusableMediaError("clip outside of the video", detail)
    return inside
