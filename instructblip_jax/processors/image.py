"""Pictures -> normalised pixels, equal to the reference image processor (PIL bicubic, CLIP mean and deviation)."""

import dataclasses
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from instructblip_jax.files import read_json

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded; Pillow's rarer readers see no untrusted bytes."""
MAX_BYTES = 50 * 2**20
MAX_PIXELS = 50_000_000

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray


class UnusableImageError(ValueError):
    """A picture that cannot be read: missing, corrupt, of a foreign format, or too large."""


def open_image(picture: Picture, name: str | None = None) -> Image.Image:
    """A path, encoded bytes, a PIL image or a uint8 array [H, W, 3] -> an upright RGB image.

    EXIF orientation is applied; transparency is laid on white; of a moving picture the first frame counts. Raises
    UnusableImageError naming the file (or ``name``) and the reason.
    """
    name = name or (str(picture) if isinstance(picture, (str, os.PathLike)) else "image")
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise UnusableImageError(f"{name}: an array must be uint8 [H, W, 3], not {picture.dtype} {picture.shape}")
        return Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        picture = _decode(_bytes(picture, name), name)
    _check_size(picture, name)
    try:
        return _to_rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnusableImageError(f"{name}: broken picture ({error})") from error


def _bytes(picture: str | os.PathLike | bytes, name: str) -> bytes:
    if isinstance(picture, bytes):
        data = picture
    elif isinstance(picture, (str, os.PathLike)):
        path = Path(picture)
        if not path.is_file():
            raise UnusableImageError(f"{name}: no such file")
        if path.stat().st_size > MAX_BYTES:
            raise UnusableImageError(f"{name}: larger than {MAX_BYTES >> 20} MiB")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnusableImageError(f"{name}: cannot be read ({error.strerror})") from error
    else:
        raise UnusableImageError(f"{name}: a {type(picture).__name__} is no path, bytes, PIL image or uint8 array")
    if len(data) > MAX_BYTES:
        raise UnusableImageError(f"{name}: larger than {MAX_BYTES >> 20} MiB")
    return data


def _decode(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image, name)
            image.load()
            return image
    except UnusableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError(f"{name}: not a picture of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt data
        raise UnusableImageError(f"{name}: truncated or corrupt picture ({error})") from error


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImageError(
            f"{name}: {image.width} x {image.height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image.convert("RGB")


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """Resize straight to (height, width) without regard to the aspect, rescale, subtract the mean, divide."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float
    resample: Image.Resampling

    @classmethod
    def from_pretrained(cls, directory: Path) -> "ImageProcessor":
        """Read ``preprocessor_config.json``. Raises FileNotFoundError or ValueError naming file and field."""
        path = directory / "preprocessor_config.json"
        raw = read_json(path)
        size = raw.get("size", {})
        size = {"height": size, "width": size} if isinstance(size, int) else size
        try:
            return cls(
                height=int(size["height"]),
                width=int(size["width"]),
                mean=tuple(map(float, raw.get("image_mean", CLIP_MEAN))),
                std=tuple(map(float, raw.get("image_std", CLIP_STD))),
                rescale=float(raw.get("rescale_factor", 1 / 255)),
                resample=Image.Resampling(raw.get("resample", 3)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: size, image_mean, image_std or resample is unusable ({error!r})") from error

    def __call__(self, picture: Picture, name: str | None = None) -> np.ndarray:
        """-> float32 [height, width, 3], channels last. Raises UnusableImageError."""
        image = open_image(picture, name)
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), self.resample)
        pixels = np.asarray(image, np.float32) * np.float32(self.rescale)
        return (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
