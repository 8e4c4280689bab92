"""Image processing for `config.data.resize` = "fast": close to the reference's, and several times faster."""

import importlib.util

import numpy as np
from PIL import Image

from instructblip_jax.processors.image import SIDEWAYS, ImageProcessor, Picture, opened

LEAST = 2
"""JPEG files are decoded at no less than this multiple of the wanted size, if they are larger."""
FILTERS = {
    Image.Resampling.BOX: "box",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "catmull_rom",
    Image.Resampling.LANCZOS: "lanczos3",
}
"""Pillow's filters -> the library's names of the same ones, which are widened like Pillow's for downscaling."""


class FastImageProcessor(ImageProcessor):
    """Resizes with the library of the extra ``fast``, from JPEG files that are scaled down while they are decoded.

    Images that are enlarged along an axis (they are small and fast), and filters not in `FILTERS`, are processed
    exactly.
    """

    def pixels(self, picture: Picture, name: str | None = None) -> np.ndarray:
        """See `ImageProcessor`."""
        if self.resample not in FILTERS:
            return super().pixels(picture, name)
        size = (self.width, self.height)
        found = opened(picture, name, (LEAST * self.width, LEAST * self.height))
        stored = size[::-1] if found.turn in SIDEWAYS else size
        if found.box[0] < stored[0] or found.box[1] < stored[1]:
            return super().pixels(found.upright, name)
        out = resized(np.asarray(found.rgb), found.box, stored, self.resample)
        return out if found.turn is None else np.asarray(Image.fromarray(out).transpose(found.turn))


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
