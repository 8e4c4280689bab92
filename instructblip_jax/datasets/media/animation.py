"""Frames sampled from an animated GIF, PNG or WebP."""

import io
import os
import warnings
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.media.frames import encode, sample, window
from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.image import MAX_BYTES, UnusableImageError, open_image
from instructblip_jax.processors.video import CORRUPT, MOST_FRAMES, Budget

FORMATS = ("GIF", "PNG", "WEBP")


def animated(file: BinaryIO, media: Media, frames: int, name: str) -> tuple[bytes, ...]:
    """``frames`` frames of the animation, sampled uniformly, as JPEG. Raises UnusableMediaError."""
    if file.seek(0, os.SEEK_END) > MAX_BYTES:
        raise UnusableMediaError("not a video", f"{name}: unknown container, and too large for a picture")
    file.seek(0)
    data = io.BytesIO(file.read())
    budget = Budget(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(data, formats=FORMATS)
            count = getattr(image, "n_frames", 1)
            if count > MOST_FRAMES:
                raise UnusableMediaError("too large", f"{name}: {count:,} frames")
            times = [0.0]
            if media.start or media.end is not None:
                times = _times(image, count, budget)
            inside = window(times[:-1], times[-1], media, name) if len(times) > 1 else range(count)
            wanted = [inside[n] for n in sample(len(inside), frames)]
            found: dict[int, bytes] = {}
            for number in range(max(wanted) + 1):
                budget.spend(*image.size)
                image.seek(number)
                if number in wanted:
                    found[number] = encode(open_image(image.copy(), name))
            return tuple(found[number] for number in wanted)
    except UnusableMediaError:
        raise
    except UnusableImageError as error:
        raise UnusableMediaError(error.reason, str(error)) from error
    except UnidentifiedImageError as error:
        raise UnusableMediaError("not a video", f"{name}: unknown container") from error
    except Image.DecompressionBombError as error:
        raise UnusableMediaError("too large", f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt data
        raise UnusableMediaError(CORRUPT, f"{name}: {error}") from error


def _times(image: Image.Image, count: int, budget: Budget) -> list[float]:
    """The start time of each frame and the end time of the last, in seconds."""
    times = [0.0]
    for number in range(count):
        budget.spend(*image.size)
        image.seek(number)
        image.load()  # Pillow knows the duration of a WebP frame only after decoding it
        times.append(times[-1] + float(image.info.get("duration") or 100) / 1000)
    image.seek(0)
    return times
