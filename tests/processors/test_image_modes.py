"""Pictures in modes where the reference processor is not followed, or that it does not know apart."""

import io

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.processors.image import UnusableImageError, open_image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_grey_of_sixteen_bits_is_divided_by_257_and_not_clipped(kind, dtype):
    """The reference's processor makes nearly all of it white."""
    grey = np.random.default_rng(0).integers(0, 256, (11, 13), dtype=np.uint8)
    wide = Image.frombytes("I;16" if dtype == "<u2" else "I;16B", (13, 11), (grey.astype(dtype) * 257).tobytes())
    for given in (wide, encoded(wide, kind)):
        np.testing.assert_array_equal(np.asarray(open_image(given)), grey[..., None].repeat(3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned_wide = open_image(encoded(wide, kind, exif=exif))
    np.testing.assert_array_equal(np.asarray(turned_wide)[..., 0], np.rot90(grey, -1))
    seen = np.array([0, 128, 129, 65535 - 128], dtype)
    narrow = open_image(Image.frombytes(wide.mode, (4, 1), seen.tobytes()))
    assert np.asarray(narrow)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_transparent_grey_of_sixteen_bits_is_white():
    wide = Image.fromarray(np.array([[0, 700, 65535, 1000]], np.uint16))
    data = encoded(wide, "PNG", transparency=700)
    assert np.asarray(open_image(data))[0, :, 0].tolist() == [0, 255, 255, 4]


@pytest.mark.parametrize(("mode", "word"), [("I", "integer"), ("F", "float")])
def test_grey_of_thirty_two_bits_is_refused(mode, word):
    image = Image.new(mode, (5, 4), 7)
    for given in (image, encoded(image, "TIFF")):
        with pytest.raises(UnusableImageError, match=word) as caught:
            open_image(given)
        assert caught.value.reason == "unsupported pixel type"


def test_cmyk_jpegs_have_the_colours_that_were_meant():
    """Adobe's are stored inverted."""
    for colour in ((250, 20, 30), (20, 200, 40), (30, 40, 220), (240, 240, 240)):
        data = encoded(Image.new("RGB", (16, 16), colour).convert("CMYK"), "JPEG", quality=95)
        assert np.abs(np.asarray(open_image(data)).astype(int) - colour).max() < 8
        assert b"Adobe" in data
