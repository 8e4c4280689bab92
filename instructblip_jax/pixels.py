"""Images as bytes: a batch may contain them as uint8, a quarter of float32, with the scale that converts them.

A loader's images are copied to the devices in this form and normalised there; prepared batches of users are float32.
NumPy and JAX evaluate the same expression, so both give the same numbers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

SCALE = "_scale"
"""KEY + SCALE is the batch key of the scale of the bytes under KEY: float32 [..., 3, 3], for each image the divisor,
mean and deviation of each channel. A blank image, whose numbers are all zero, consists of zero bytes with `BLANK`."""
BLANK = np.array([[1] * 3, [0] * 3, [1] * 3], np.float32)


def normalised(pixels: Any, scale: Any) -> Any:
    """uint8 [..., H, W, 3] and their scale [..., 3, 3] -> float32 [..., H, W, 3]."""
    divisor, mean, deviation = (scale[..., n, None, None, :] for n in range(3))
    return _divided(_divided(pixels.astype(np.float32), divisor) - mean, deviation)


def _divided(x: Any, by: Any) -> Any:
    """x / by, rounded once. XLA would multiply by the inverse of a divisor that is visibly repeated along an axis;
    dividing zeros by 1 hides the repetition and changes nothing else."""
    return x / (by + (1 - by) * (x == 0))


def numbers(batch: Mapping[str, Any], key: str) -> Any:
    """The images of a batch as numbers [..., H, W, 3]: normalised if they are bytes, otherwise unchanged.

    Raises ValueError for bytes without their scale.
    """
    pixels = batch[key]
    if pixels.dtype != np.uint8:
        return pixels
    if key + SCALE not in batch:
        raise ValueError(f"{key} are uint8, without {key + SCALE}: give normalised float32, as the processor does")
    return normalised(pixels, batch[key + SCALE])


def all_numbers(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch with all of its images as numbers."""
    return {key: numbers(batch, key) for key in batch if not key.endswith(SCALE)}


def blank(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Media arrays of the same shapes and types, with all numbers zero."""
    zero = {key: np.zeros_like(x) for key, x in batch.items()}
    return zero | {key: np.broadcast_to(BLANK, x.shape).copy() for key, x in batch.items() if key.endswith(SCALE)}
