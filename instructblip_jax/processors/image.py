"""Images -> normalised pixels, equal to the reference's (PIL bicubic, CLIP mean and standard deviation)."""

import contextlib
import dataclasses
import functools
import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from instructblip_jax.files import read_json, write_json
from instructblip_jax.processors import jpeg

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Supported formats; Pillow's rarer readers are never given untrusted bytes."""
MAX_BYTES = 50 * 2**20
MAX_PIXELS = 50_000_000

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray


class UnusableImageError(ValueError):
    """An image that cannot be read. ``reason`` is one of a few fixed phrases, by which reports count images."""

    def __init__(self, message: str, reason: str = "truncated or corrupt picture"):
        super().__init__(message)
        self.reason = reason


def open_image(picture: Picture, name: str | None = None) -> Image.Image:
    """Open a path, encoded bytes, a PIL image or a uint8 array [H, W, 3] as an upright RGB image.

    EXIF orientation is applied, transparency is composited on white, and the first frame of an animation is used.
    16-bit greyscale is divided by 257, whereas the reference clips it; 32-bit greyscale is refused, because its range
    is unknown. Raises UnusableImageError naming the file (or ``name``) and the reason.
    """
    return opened(picture, name).upright


class Opened(NamedTuple):
    """A decoded image. ``box``: its width and height in the pixels ``rgb``, fractional if a JPEG file was scaled down.
    ``turn``: the transposition that makes it upright."""

    rgb: Image.Image | np.ndarray
    box: tuple[float, float]
    turn: Image.Transpose | None = None

    @property
    def upright(self) -> Image.Image:
        """All of its pixels, upright."""
        image = self.rgb if isinstance(self.rgb, Image.Image) else Image.fromarray(self.rgb)
        return image if self.turn is None else image.transpose(self.turn)


def opened(picture: Picture, name: str | None, least: tuple[int, int] | None = None) -> Opened:
    """See `open_image`. ``least``: a JPEG file may be scaled down, to no less than this (width, height) upright."""
    name = name or (str(picture) if isinstance(picture, (str, os.PathLike)) else "image")
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise UnusableImageError(f"{name}: an array must be uint8 [H, W, 3], not {picture.dtype} {picture.shape}")
        return Opened(picture, (picture.shape[1], picture.shape[0]))
    if not isinstance(picture, Image.Image):
        data = _bytes(picture, name)
        picture = _header(data, name)
        turn = _turn(picture) if picture.format in jpeg.FORMATS else None
        turned = least and (least[::-1] if turn in SIDEWAYS else least)
        if found := jpeg.decoded(data, picture, turned):
            return Opened(*found, turn)
        _load(picture, name)
    _check_size(picture, name)
    try:
        picture.load()
        if picture.mode in ("I", "F"):
            kind = "integer" if picture.mode == "I" else "float"
            raise UnusableImageError(f"{name}: the range of 32-bit {kind} grey is unknown", "unsupported pixel type")
        return Opened(_to_rgb(picture), picture.size, _turn(picture))
    except UnusableImageError:
        raise
    except Exception as error:  # a PIL image that the caller opened is decoded only now
        raise UnusableImageError(f"{name}: broken picture ({error})") from error


def _bytes(picture: str | os.PathLike | bytes, name: str) -> bytes:
    if isinstance(picture, bytes):
        data = picture
    elif isinstance(picture, (str, os.PathLike)):
        path = Path(picture)
        try:
            if not path.is_file():
                raise UnusableImageError(f"{name}: no such file", "missing picture")
            if path.stat().st_size > MAX_BYTES:
                raise UnusableImageError(f"{name}: larger than {MAX_BYTES >> 20} MiB", "too large")
            data = path.read_bytes()
        except OSError as error:
            raise UnusableImageError(f"{name}: cannot be read ({error.strerror})", "unreadable file") from error
    else:
        raise UnusableImageError(f"{name}: a {type(picture).__name__} is not a path, bytes, PIL image or uint8 array")
    if len(data) > MAX_BYTES:
        raise UnusableImageError(f"{name}: larger than {MAX_BYTES >> 20} MiB", "too large")
    return data


def _header(data: bytes, name: str) -> Image.Image:
    """The file's size and properties, without decoding its pixels."""
    with _named(name):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image, name)
        return image


def _load(image: Image.Image, name: str) -> None:
    with _named(name):
        image.load()


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn every error of Pillow's into an UnusableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            yield
    except UnusableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableImageError(
            f"{name}: exceeds the limit of {MAX_PIXELS // 10**6} megapixels ({error})", "too large"
        ) from error
    except UnidentifiedImageError as error:
        message = f"{name}: not a picture of a known format ({', '.join(FORMATS)})"
        raise UnusableImageError(message, "not a picture") from error
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt data
        raise UnusableImageError(f"{name}: truncated or corrupt picture ({error})") from error


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImageError(
            f"{name}: {image.width} x {image.height} pixels; the limit is {MAX_PIXELS // 10**6} megapixels",
            "too large",
        )


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the transposition that makes the image upright."""


SIDEWAYS = [_TURNS[orientation] for orientation in (5, 6, 7, 8)]


def _turn(original: Image.Image) -> Image.Transpose | None:
    # Not ImageOps.exif_transpose: it writes all tags back, and fails if any tag has a wrong type.
    try:
        orientation = original.getexif().get(ExifTags.Base.Orientation)
        return _TURNS.get(orientation or 0)
    except Exception:  # broken EXIF data in an intact image
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[wide == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image.convert("RGB")


PREPROCESSOR, VIDEO_PREPROCESSOR = "preprocessor_config.json", "video_preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""The file in which transformers 5 writes image settings, in a field of `NESTED`; older versions have no such field."""
NESTED = ("image_processor", "video_processor")


def settings(directory: Path, *, video: bool = False) -> tuple[Path, str, dict[str, Any]]:
    """(file, field, settings) of a model directory's image processor; the field is "" if they are at top level.

    `PROCESSOR` takes precedence over `PREPROCESSOR`, as in transformers. If there are no settings for video (``video``)
    or images, those of the other kind are used. Raises FileNotFoundError or ValueError naming the file.
    """
    own, other = NESTED[::-1] if video else NESTED
    path = directory / PROCESSOR
    processor = read_json(path) if path.is_file() else {}
    files = [directory / name for name in ((VIDEO_PREPROCESSOR,) if video else ()) + (PREPROCESSOR,)]
    there = next((file for file in files if file.is_file()), None)
    for field in (own, other):
        if processor.get(field) is not None:
            if not isinstance(processor[field], dict):
                raise ValueError(f"{path}: {field} is not an object")
            return path, field, processor[field]
        if there is not None:
            return there, "", read_json(there)
    raise FileNotFoundError(f"{directory / PREPROCESSOR}: no such file, and {PROCESSOR} has no {own} either")


def write_sizes(directory: Path, sizes: Mapping[str, Any]) -> None:
    """Replace fields of a model directory's image settings in the file that has them; see `settings`."""
    for path in (directory / PREPROCESSOR, directory / VIDEO_PREPROCESSOR):
        if path.is_file():
            write_json(path, {**read_json(path), **sizes})
    path = directory / PROCESSOR
    if path.is_file():
        raw = read_json(path)
        write_json(path, raw | {name: {**raw[name], **sizes} for name in NESTED if isinstance(raw.get(name), dict)})


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """Resizes to (height, width) without keeping the aspect ratio, rescales, subtracts the mean, divides by ``std``."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float
    resample: Image.Resampling

    @classmethod
    def from_pretrained(cls, directory: Path, *, video: bool = False) -> "ImageProcessor":
        """Read a model directory's `settings`. Raises FileNotFoundError or ValueError naming file and field."""
        path, field, raw = settings(directory, video=video)
        where = f"{path}: {field}." if field else f"{path}: "
        for switch in ("do_resize", "do_rescale", "do_normalize"):
            if raw.get(switch) is False:
                raise ValueError(f"{where}{switch} is false; images are always resized, rescaled and normalised here")
        try:
            processor = cls(
                **cls.sizes(raw),
                mean=tuple(map(float, raw.get("image_mean", CLIP_MEAN))),
                std=tuple(map(float, raw.get("image_std", CLIP_STD))),
                rescale=float(raw.get("rescale_factor", 1 / 255)),
                resample=Image.Resampling(raw.get("resample", 3)),
            )
            if min(processor.height, processor.width) < 1:
                raise ValueError(f"height {processor.height}, width {processor.width}")
            if len(processor.mean) != 3 or len(processor.std) != 3 or 0 in processor.std:
                raise ValueError(
                    f"mean {processor.mean}, deviation {processor.std}: must be three numbers each, no deviation 0"
                )
            if not all(map(math.isfinite, (*processor.mean, *processor.std, processor.rescale))):
                raise ValueError(
                    f"mean {processor.mean}, deviation {processor.std}, factor {processor.rescale}: not all are finite"
                )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            names = "size, image_mean, image_std, rescale_factor, resample or crop_size"
            raise ValueError(f"{where}{names} is unusable ({error})") from error
        return processor

    @classmethod
    def sizes(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The fields derived from the sizes in a file's settings. Raises KeyError or TypeError if one is missing or
        unusable."""
        return dict(zip(("height", "width"), _sides(raw.get("size", {})), strict=True))

    def at(self, side: int) -> Self:
        """The same processor for an output of ``side`` by ``side`` pixels."""
        return dataclasses.replace(self, height=side, width=side)

    def pixels(self, picture: Picture, name: str | None = None) -> np.ndarray:
        """Resize one image: uint8 [height, width, 3]. Raises UnusableImageError."""
        image = open_image(picture, name)
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), self.resample)
        return np.asarray(image)

    def __call__(self, picture: Picture, name: str | None = None) -> np.ndarray:
        """Preprocess one image: float32 [height, width, 3]. Raises UnusableImageError."""
        return self.normalised(self.pixels(picture, name))

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [height, width, 3] of `pixels` -> float32 of the same shape."""
        rows = pixels.reshape(self.height, -1)
        pixels = (rows * self.rescale).astype(np.float32)  # the product is float64, as in the reference
        mean, std = self._per_row
        pixels -= mean
        pixels /= std
        return pixels.reshape(self.height, self.width, 3)

    @functools.cached_property
    def scale(self) -> np.ndarray | None:
        """The scale of `pixels`, float32 [3, 3], with which `instructblip_jax.pixels.normalised` equals a call, bit for
        bit; None for factors that are not the inverse of a float32."""
        levels = np.arange(256, dtype=np.uint8)
        divisor = np.float32(1 / self.rescale if self.rescale else np.inf)
        if not np.isfinite(divisor) or not np.array_equal(levels / divisor, (levels * self.rescale).astype(np.float32)):
            return None
        return np.array([[divisor] * 3, self.mean, self.std], np.float32)

    @functools.cached_property
    def _per_row(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, float32 [3 * width] each: NumPy is four times slower along an axis of length three."""
        mean, std = (np.tile(np.asarray(x, np.float32), self.width) for x in (self.mean, self.std))
        return mean, std


def _sides(size: Any) -> tuple[int, int]:
    """Height and width of a size, which older files store as one number."""
    size = {"height": size, "width": size} if isinstance(size, int) else size
    return int(size["height"]), int(size["width"])


@dataclasses.dataclass(frozen=True)
class CroppedImageProcessor(ImageProcessor):
    """CLIP's preprocessing: resize the shorter side, and crop the centre.

    Attributes:
      shortest: pixels of the shorter side; 0 if images are resized without keeping the aspect ratio.
      pad: first pad images to a square with the mean colour, so that nothing is cropped (arXiv 2310.03744).
    """

    shortest: int = 0
    pad: bool = False

    @classmethod
    def sizes(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """See `ImageProcessor.sizes`."""
        size, pad = raw.get("size", {}), bool(raw.get("do_pad", False))
        shortest = size if isinstance(size, int) else size.get("shortest_edge", 0)
        if not shortest:
            return super().sizes(raw) | {"pad": pad}
        if raw.get("do_center_crop") is False:
            raise ValueError("do_center_crop is false, and size is that of the shortest edge: no fixed shape")
        height, width = _sides(raw.get("crop_size", shortest))
        if int(shortest) < max(height, width):
            raise ValueError(f"shortest_edge {shortest} is less than crop_size {height} x {width}")
        return {"height": height, "width": width, "shortest": int(shortest), "pad": pad}

    @property
    def background(self) -> tuple[int, ...]:
        """The colour of the padding: the mean, rounded down as in LLaVA's code."""
        return tuple(int(255 * x) for x in self.mean)

    def at(self, side: int) -> Self:
        """See `ImageProcessor.at`; the shorter side keeps its ratio to the crop."""
        shortest = round(self.shortest * side / self.height)
        return dataclasses.replace(super().at(side), shortest=shortest)

    def pixels(self, picture: Picture, name: str | None = None) -> np.ndarray:
        """See `ImageProcessor.pixels`."""
        image = open_image(picture, name)
        if self.pad and image.width != image.height:
            side = max(image.size)
            square = Image.new("RGB", (side, side), self.background)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        width, height = self.width, self.height
        if self.shortest:
            short, long = sorted(image.size)
            resized = int(self.shortest * long / short)
            wide = image.width > image.height
            width, height = (resized, self.shortest) if wide else (self.shortest, resized)
        if image.size != (width, height):
            image = image.resize((width, height), self.resample)
        left, top = (width - self.width) // 2, (height - self.height) // 2
        return np.asarray(image)[top : top + self.height, left : left + self.width]


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
