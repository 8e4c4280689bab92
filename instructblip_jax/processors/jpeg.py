"""JPEG files by simplejpeg, which decodes them faster than Pillow, to the same bits."""

import functools
import io

import numpy as np
from PIL import Image, features

try:
    import simplejpeg
except ImportError:  # has no wheel for every machine; Pillow then decodes all
    simplejpeg = None

FORMATS = ("JPEG", "MPO")
"""Pillow's names of what may be decoded here; an MPO file is a JPEG file with others behind it."""


def decoded(
    data: bytes, image: Image.Image, least: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[float, float]] | None:
    """The pixels of a JPEG file uint8 [H, W, 3], not turned upright, and the (width, height) of the picture in them;
    None for what is left to Pillow: other files, CMYK, damage, and all where `same_bits` does not hold.

    Args:
      image: the file as `Image.open` has read its header, where sizes are checked.
      least: if given, a (width, height) that the decoded pixels have at least, where the picture does: they may then be
        those of a half, a quarter or an eighth, from fewer coefficients. The picture's own size is then a fraction.
    """
    if image.format not in FORMATS or image.mode not in ("RGB", "L") or not same_bits():
        return None
    width, height = least or image.size
    try:
        # Between half and whole, libjpeg's scaling is less exact than the resizing that follows, and no faster.
        rgb = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, min_factor=2 if least else 1)
    except ValueError:  # any irregularity; Pillow decides which of them it reads
        return None
    eighths = round(8 * rgb.shape[1] / image.width)
    return rgb, (image.width * eighths / 8, image.height * eighths / 8)


@functools.cache
def same_bits() -> bool:
    """True if simplejpeg is installed and decodes as this Pillow does, whose libjpeg may be another one."""
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
