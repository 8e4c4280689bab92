"""JPEG files: simplejpeg's pixels are Pillow's bit for bit, and whatever is irregular is left to Pillow."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.processors import jpeg
from instructblip_jax.processors.image import UnusableImageError, open_image

simplejpeg = pytest.importorskip("simplejpeg")
SIZES = [(1, 1), (1, 40), (17, 1), (8, 8), (16, 24), (37, 51), (61, 43), (130, 97)]


def encoded(array: np.ndarray, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def drawn(height: int, width: int, noise: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)


def by_pillow(data: bytes) -> np.ndarray | None:
    try:
        return np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB"))
    except Exception:
        return None


def test_the_installed_libraries_decode_alike():
    """If this fails, pictures are still right, but Pillow decodes all: another simplejpeg or Pillow is needed."""
    assert jpeg.same_bits()


@pytest.mark.parametrize(("quality", "progressive"), itertools.product((1, 30, 75, 95, 100), (False, True)))
def test_pixels_are_pillows_bit_for_bit(quality, progressive):
    kinds = [("RGB", {"subsampling": n}) for n in range(3)]
    kinds += [("L", {}), ("RGB", {"subsampling": 0, "keep_rgb": True}), ("RGB", {"restart_marker_blocks": 2})]
    for (height, width), (mode, options) in itertools.product(SIZES, kinds):
        data = encoded(drawn(height, width), mode, quality=quality, progressive=progressive, **options)
        rgb, size = jpeg.decoded(data, Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(rgb, by_pillow(data))
        assert size == (width, height)
        np.testing.assert_array_equal(np.asarray(open_image(data)), rgb)


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_rare_subsampling_too(subsampling):
    data = simplejpeg.encode_jpeg(drawn(61, 43), quality=80, colorsubsampling=subsampling)
    np.testing.assert_array_equal(np.asarray(open_image(data)), by_pillow(data))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("mode", "progressive"), [("RGB", False), ("RGB", True), ("L", False)])
def test_damaged_files_end_as_with_pillow_alone(mode, progressive):
    data = encoded(drawn(43, 61), mode, quality=60, progressive=progressive)
    rng = np.random.default_rng(0)
    broken = [data[:n] for n in range(2, len(data), 23)] + [data + b"\0", data + b"\xff\xd9", data + data]
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(2, len(data), 2):
            damaged[at] = rng.integers(256)
        broken.append(bytes(damaged))
    taken = refused = 0
    for case in broken:
        want = by_pillow(case)
        try:
            got = np.asarray(open_image(case))
        except UnusableImageError:
            refused += 1
            assert want is None or want.size > 10**6
            continue
        taken += 1
        np.testing.assert_array_equal(got, want)
    assert taken > 40
    assert refused > 40


def test_other_colours_and_other_formats_are_left_to_pillow():
    for mode, kind in (("CMYK", "JPEG"), ("RGB", "PNG"), ("RGB", "WEBP")):
        file = io.BytesIO()
        Image.fromarray(drawn(20, 30)).convert(mode).save(file, kind)
        assert jpeg.decoded(file.getvalue(), Image.open(file)) is None
        assert open_image(file.getvalue()).size == (30, 20)


def test_sizes_are_checked_before_anything_is_decoded(monkeypatch):
    data = bytearray(encoded(drawn(20, 30)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (9000).to_bytes(2) * 2
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(UnusableImageError, match="9000 x 9000 pixels; the limit is 50 megapixels"):
        open_image(bytes(data))


@pytest.mark.parametrize("absent", [True, False])
def test_without_a_library_of_the_same_bits_pillow_decodes(monkeypatch, absent):
    data = encoded(drawn(37, 51), quality=90)
    other = None if absent else type("Other", (), {"decode_jpeg": lambda *_, **__: np.zeros((37, 51, 3), np.uint8)})
    monkeypatch.setattr(jpeg, "simplejpeg", other)
    jpeg.same_bits.cache_clear()
    try:
        assert not jpeg.same_bits()
        np.testing.assert_array_equal(np.asarray(open_image(data)), by_pillow(data))
    finally:
        jpeg.same_bits.cache_clear()
