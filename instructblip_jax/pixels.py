"""Pictures as bytes: a batch may hold them as uint8, a quarter of float32, and how they become numbers beside them.

A loader's pictures are copied to the devices in this form and normalised there; prepared batches of users are float32.
NumPy and JAX run the same expression, so both give the same numbers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

SCALE = "_scale"
"""KEY + SCALE is the batch key of the scale of the bytes under KEY: float32 [..., 3, 3], for each picture the divisor,
mean and deviation of each channel. A blank picture, whose numbers are all zero, is bytes of zero with `BLANK`."""
BLANK = np.array([[1] * 3, [0] * 3, [1] * 3], np.float32)


def normalised(pixels: Any, scale: Any) -> Any:
    """uint8 [..., H, W, 3] and their scale [..., 3, 3] -> float32 [..., H, W, 3]."""
    divisor, mean, deviation = (scale[..., n, None, None, :] for n in range(3))
    return _divided(_divided(pixels.astype(np.float32), divisor) - mean, deviation)


def _divided(x: Any, by: Any) -> Any:
    """x / by, rounded once. XLA multiplies by the inverse of a divisor that it sees repeated along an axis; here zeros
    are divided by 1, which changes nothing but what it sees."""
    return x / (by + (1 - by) * (x == 0))


def numbers(batch: Mapping[str, Any], key: str) -> Any:
    """The pictures of a batch as numbers [..., H, W, 3]: normalised if they are bytes, and otherwise as they are.

    Raises ValueError for bytes without their scale.
    """
    pixels = batch[key]
    if pixels.dtype != np.uint8:
        return pixels
    if key + SCALE not in batch:
        raise ValueError(f"{key} are uint8, without {key + SCALE}: give normalised float32, as the processor does")
    return normalised(pixels, batch[key + SCALE])


def all_numbers(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch with all of its pictures as numbers."""
    return {key: numbers(batch, key) for key in batch if not key.endswith(SCALE)}


def blank(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Media arrays of the same shapes and types, whose numbers are all zero."""
    zero = {key: np.zeros_like(x) for key, x in batch.items()}
    return zero | {key: np.broadcast_to(BLANK, x.shape).copy() for key, x in batch.items() if key.endswith(SCALE)}
