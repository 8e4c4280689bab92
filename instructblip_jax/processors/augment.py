"""Augmentation of training images: crops, flips and RandAugment, as in ALBEF (arXiv 2107.07651) and BLIP (2201.12086).

The arithmetic of colours and histograms is Pillow's. Shears, shifts and rotations use the same coordinates as the
originals' OpenCV, with bilinear weights. OpenCV rounds coordinates to 1/32 of a pixel, rounds levels that Pillow
truncates, and mixes the fill colour into the outermost pixels. 99 % of the values of a sheared or rotated image
therefore deviate by at most 1 of 255, or by 3 for noise, and some values at the edge by up to 64. The originals'
sharpening wraps around beyond 255; Pillow's clips.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

RATIOS = (3 / 4, 4 / 3)
"""Minimum and maximum aspect ratio (width / height) of a crop."""
TRIES = 10
"""Number of crops that are tried before the largest central one is used."""
FILLING = (128, 128, 128)
"""The colour outside of an image."""
LEVELS = 10
"""Maximum magnitude."""
Operation = Callable[[Image.Image, float], Image.Image]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images, drawn anew at each visit (`config.data.augment`); off by default.

    Attributes:
      crop: crop a part of at least this fraction of an image's area, with an aspect ratio from 3/4 to 4/3, and resize
        it; 0 resizes whole images. The papers use 0.2 in pre-training and 0.5 in fine-tuning.
      flip: mirror an image with probability 1/2.
      operations: number of `OPERATIONS` drawn, with replacement; each is then applied with probability 1/2. The papers
        use 2.
      magnitude: strength of the operations, 0 to 10. ALBEF uses 7, BLIP 5; brightness and sharpness do not change at 5.
      exchange: with probability 1/2, exchange the two images of a record, and "left" and "right" in its texts (NLVR2).
    """

    crop: float = 0.0
    flip: bool = False
    operations: int = 0
    magnitude: int = 5
    exchange: bool = False

    def check(self) -> None:
        """Raise ValueError naming a field whose value is out of range."""
        if not 0 <= self.crop <= 1:
            raise ValueError(f"config.data.augment.crop is {self.crop}; it is a share of the area, or 0 for none")
        if self.operations < 0:
            raise ValueError(f"config.data.augment.operations is {self.operations}; it is 0 or more")
        if not 0 <= self.magnitude <= LEVELS:
            raise ValueError(f"config.data.augment.magnitude is {self.magnitude}; it is from 0 to {LEVELS}")

    @property
    def is_on(self) -> bool:
        """True if any augmentation is on."""
        return bool(self.crop or self.flip or self.operations or self.exchange)

    def __call__(
        self, pixels: np.ndarray, resize: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """A decoded image uint8 [h, w, 3] -> an augmented one, uint8 [H, W, 3]; ``resize`` resizes to that size."""
        if self.crop:
            left, top, width, height = crop_box(pixels.shape[1], pixels.shape[0], self.crop, rng)
            pixels = pixels[top : top + height, left : left + width]
        pixels = resize(pixels)
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        for operation, value in self.drawn(rng):
            pixels = np.asarray(operation(Image.fromarray(pixels), value))
        return np.ascontiguousarray(pixels)

    def drawn(self, rng: np.random.Generator) -> list[tuple[Operation, float]]:
        """The operations to apply, in order, with their values."""
        found = []
        for number in rng.integers(len(OPERATIONS), size=self.operations):
            operation, value, signed = OPERATIONS[number]
            sign = -1 if signed and rng.random() < 0.5 else 1
            if rng.random() < 0.5:
                found.append((operation, sign * value(self.magnitude / LEVELS)))
        return found


def crop_box(width: int, height: int, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random crop: its fraction of the area is uniform from ``least`` to 1; the
    logarithm of its aspect ratio and its position are uniform. If `TRIES` crops do not fit into the image, it is the
    largest central part with an allowed aspect ratio."""
    low, high = RATIOS
    for _ in range(TRIES):
        area = width * height * rng.uniform(least, 1)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            return left, top, wide, tall
    wide, tall = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def _warped(image: Image.Image, *matrix: float) -> Image.Image:
    """Pixel (x, y) becomes that at (a x + b y + c, d x + e y + f) of ``image``; the matrix is a, b, c, d, e, f."""
    a, b, c, d, e, f = matrix
    # Pillow's coordinates refer to corners: the centre of a pixel is half a pixel away.
    centred = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    return image.transform(image.size, Image.Transform.AFFINE, centred, Image.Resampling.BILINEAR, fillcolor=FILLING)


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    """The image rotated counter-clockwise around the pixel (W / 2, H / 2)."""
    x, y = image.width / 2, image.height / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _warped(image, cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


OPERATIONS: tuple[tuple[Operation, Callable[[float], float], bool], ...] = (
    (lambda image, _: image, float, False),
    (lambda image, _: ImageOps.autocontrast(image), float, False),
    (lambda image, _: ImageOps.equalize(image), float, False),
    (lambda image, factor: ImageEnhance.Brightness(image).enhance(factor), lambda level: 1.8 * level + 0.1, False),
    (lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor), lambda level: 1.8 * level + 0.1, False),
    (lambda image, slope: _warped(image, 1, -slope, 0, 0, 1, 0), lambda level: 0.3 * level, True),
    (lambda image, slope: _warped(image, 1, 0, 0, -slope, 1, 0), lambda level: 0.3 * level, True),
    (lambda image, pixels: _warped(image, 1, 0, pixels, 0, 1, 0), lambda level: 10 * level, True),
    (lambda image, pixels: _warped(image, 1, 0, 0, 0, 1, pixels), lambda level: 10 * level, True),
    (_rotated, lambda level: 30 * level, True),
)
"""(operation, level from 0 to 1 -> its value, True if the value's sign is drawn): nothing, automatic contrast,
equalized histogram, brightness and sharpness by a factor, sheared along x and y, shifted along x and y by pixels, and
rotated by degrees."""
