"""Random changes of training pictures: crops, flips and RandAugment, as ALBEF (arXiv 2107.07651) and BLIP (2201.12086)
draw them.

The arithmetic of colours and histograms is Pillow's. Shears, shifts and rotations map pixels to the places to which the
originals' OpenCV maps them, with bilinear weights. OpenCV rounds those places to 1/32 of a pixel, rounds levels where
Pillow cuts them off, and mixes the filling into the outermost pixels: of the numbers of a sheared or rotated picture
99 % deviate by 1 of 255 at most, by 3 where it is noise, and at the edge some deviate by up to 64. The originals'
sharpening wraps around beyond 255, where Pillow's stops.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

RATIOS = (3 / 4, 4 / 3)
"""The least and the greatest width of a crop in proportion to its height."""
TRIES = 10
"""Crops that are drawn before the largest central one is taken."""
FILLING = (128, 128, 128)
"""The colour of what lies outside of a picture."""
LEVELS = 10
"""The greatest magnitude."""
Operation = Callable[[Image.Image, float], Image.Image]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How training pictures are drawn anew at each visit (`config.data.augment`); nothing is, by default.

    Attributes:
      crop: cut out a part of at least this share of a picture's area, of an aspect ratio from 3/4 to 4/3, and resize
        it; 0 resizes whole pictures. The papers' is 0.2 in pre-training and 0.5 in fine-tuning.
      flip: mirror every second picture.
      operations: this many of `OPERATIONS` are drawn, with replacement; each is then applied with probability 1/2. The
        papers' is 2.
      magnitude: strength of the operations, 0 to 10. ALBEF's is 7, BLIP's is 5; brightness and sharpness do not change
        at 5.
      exchange: let the pictures of every second record of two change places, and "left" and "right" in its texts
        (NLVR2).
    """

    crop: float = 0.0
    flip: bool = False
    operations: int = 0
    magnitude: int = 5
    exchange: bool = False

    def check(self) -> None:
        """Raise ValueError naming a field whose value is outside of its range."""
        if not 0 <= self.crop <= 1:
            raise ValueError(f"config.data.augment.crop is {self.crop}; it is a share of the area, or 0 for none")
        if self.operations < 0:
            raise ValueError(f"config.data.augment.operations is {self.operations}; it is 0 or more")
        if not 0 <= self.magnitude <= LEVELS:
            raise ValueError(f"config.data.augment.magnitude is {self.magnitude}; it is from 0 to {LEVELS}")

    @property
    def is_on(self) -> bool:
        """True if anything is drawn."""
        return bool(self.crop or self.flip or self.operations or self.exchange)

    def __call__(
        self, pixels: np.ndarray, resize: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """A decoded picture uint8 [h, w, 3] -> one drawn of it, uint8 [H, W, 3]; ``resize`` makes that size."""
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
        """The operations to be applied, in order, and the value of each."""
        found = []
        for number in rng.integers(len(OPERATIONS), size=self.operations):
            operation, value, signed = OPERATIONS[number]
            sign = -1 if signed and rng.random() < 0.5 else 1
            if rng.random() < 0.5:
                found.append((operation, sign * value(self.magnitude / LEVELS)))
        return found


def crop_box(width: int, height: int, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a part of a picture: its share of the area is uniform from ``least`` to 1, the
    logarithm of its aspect ratio is uniform, and so is its place. Where `TRIES` of them do not fit into the picture it
    is the largest central part with an aspect ratio that is allowed."""
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
    # Pillow's places are those of corners: a pixel's middle is half a pixel away.
    centred = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    return image.transform(image.size, Image.Transform.AFFINE, centred, Image.Resampling.BILINEAR, fillcolor=FILLING)


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    """Turned around the pixel (W / 2, H / 2), counter-clockwise."""
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
