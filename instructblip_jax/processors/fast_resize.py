"""Resizing for `config.data.resize` = "fast": the library of the extra ``fast``, close to Pillow's and several times
faster."""

import importlib.util

import numpy as np
from PIL import Image

LEAST = 2
"""JPEG files are decoded at no less than this many times the wanted size, if they are larger."""
FILTERS = {
    Image.Resampling.BOX: "box",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "catmull_rom",
    Image.Resampling.LANCZOS: "lanczos3",
}
"""Pillow's filters -> the library's names of the same ones, which are widened as Pillow's when a picture shrinks."""


def missing() -> str:
    """The modules that are not installed, or ""."""
    return ", ".join(name for name in ("simplejpeg", "cykooz_resizer") if importlib.util.find_spec(name) is None)


def resized(rgb: np.ndarray, box: tuple[float, float], size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """The upper left ``box`` (width, height) of pixels uint8 [h, w, 3], resized to ``size`` (width, height): uint8
    [height, width, 3]. ``resample`` is one of `FILTERS`."""
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    height, width = rgb.shape[:2]
    options = ResizeOptions(ResizeAlg.convolution(FilterType[FILTERS[resample]]), crop_box=CropBox(0, 0, *box))
    out = ImageData(*size, PixelType.U8x3)
    Resizer().resize(ImageData(width, height, PixelType.U8x3, rgb.tobytes()), out, options)
    return np.frombuffer(out.get_buffer(), np.uint8).reshape(size[1], size[0], 3)
