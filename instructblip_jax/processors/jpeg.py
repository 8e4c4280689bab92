"""JPEG decoding with simplejpeg, faster than Pillow, to the same bits."""

import functools
import io

import numpy as np
from PIL import Image, features

try:
    import simplejpeg
except ImportError:  # not every machine has a wheel; Pillow then decodes all files
    simplejpeg = None

FORMATS = ("JPEG", "MPO")
"""Pillow's names of the formats decoded here; an MPO file is a JPEG file followed by others."""


def decoded(
    data: bytes, image: Image.Image, least: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[float, float]] | None:
    """The pixels of a JPEG file uint8 [H, W, 3], without orientation, and the (width, height) of the image in them;
    None for files left to Pillow: other formats, CMYK, damaged files, and all files if `same_bits` is false.

    Args:
      image: the file, with its header read by `Image.open`, which checks sizes.
      least: if given, the minimum (width, height) of the decoded pixels, unless the image is smaller: the file may then
        be decoded at a half, a quarter or an eighth, from fewer coefficients, and the image size is fractional.
    """
    if image.format not in FORMATS or image.mode not in ("RGB", "L") or not same_bits():
        return None
    width, height = least or image.size
    try:
        # Between half and full size, libjpeg's scaling is less exact than the subsequent resizing, and no faster.
        rgb = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, min_factor=2 if least else 1)
    except ValueError:  # any irregularity; Pillow decides whether it can be read
        return None
    eighths = round(8 * rgb.shape[1] / image.width)
    return rgb, (image.width * eighths / 8, image.height * eighths / 8)


@functools.cache
def same_bits() -> bool:
    """True if simplejpeg is installed and gives the same pixels as this Pillow, whose libjpeg may differ."""
    if simplejpeg is None or not features.check_feature("libjpeg_turbo"):
        return False
    noise = np.random.default_rng(0).integers(0, 256, (37, 51, 3), np.uint8)
    for mode, subsampling, progressive in (("RGB", 0, True), ("RGB", 1, False), ("RGB", 2, False), ("L", 0, False)):
        file = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(
            file, "JPEG", quality=90, subsampling=subsampling, progressive=progressive
        )
        want = np.asarray(Image.open(file).convert("RGB"))
        if not np.array_equal(simplejpeg.decode_jpeg(file.getvalue(), "RGB"), want):
            return False
    return True
