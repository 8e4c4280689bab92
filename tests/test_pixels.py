"""Pictures as bytes become the processor's numbers bit for bit, in NumPy and in compiled programs."""

import jax
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from instructblip_jax import pixels
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
SETTINGS = {
    "clip": (CLIP_MEAN, CLIP_STD, 1 / 255),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255),
    "minus-one-to-one": ((0.5,) * 3, (0.5,) * 3, 1 / 255),
    "halves": ((1.0,) * 3, (1.0,) * 3, 1 / 127.5),
    "bare": ((0.0,) * 3, (1.0,) * 3, 1.0),
}


def processor(mean, std, rescale) -> ImageProcessor:
    return ImageProcessor(16, 16, mean, std, rescale, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_byte_becomes_the_number_that_the_processor_gives(name):
    image = processor(*SETTINGS[name])
    want = image(LEVELS)
    np.testing.assert_array_equal(pixels.normalised(LEVELS, image.scale), want)
    rows, scales = np.stack([LEVELS, LEVELS[::-1]]), np.stack([image.scale] * 2)
    np.testing.assert_array_equal(jax.jit(pixels.normalised)(rows, scales), np.stack([want, want[::-1]]))

    def patches(rows, scales):  # as a tower has them, where the division is fused with what follows
        return pixels.normalised(rows, scales).reshape(2, 2, 8, 2, 8, 3).swapaxes(2, 3)

    got = np.asarray(jax.jit(patches)(rows, scales)).swapaxes(2, 3).reshape(rows.shape)
    np.testing.assert_array_equal(got, np.stack([want, want[::-1]]))


def test_an_accelerators_division_would_be_the_same_number_in_bfloat16():
    """Theirs may be off by two units in the last place of float32, each time."""
    image = processor(*SETTINGS["clip"])
    want, unit = image(LEVELS).astype(ml_dtypes.bfloat16), np.float32(2**-23)
    divisor, mean, std = image.scale
    for first in range(-2, 3):
        for second in range(-2, 3):
            scaled = LEVELS / divisor * (1 + first * unit)
            got = (scaled - mean) / std * (1 + second * unit)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got.astype(ml_dtypes.bfloat16), want)


def test_a_factor_that_is_no_inverse_has_no_scale():
    assert processor(CLIP_MEAN, CLIP_STD, 0.0).scale is None
    assert processor(CLIP_MEAN, CLIP_STD, 0.0041234567890123).scale is None


def test_blank_pictures_are_zeros_in_either_form():
    bytes_of = {"x": np.ones((2, 4, 4, 3), np.uint8), "x" + pixels.SCALE: np.full((2, 3, 3), 7, np.float32)}
    blank = pixels.blank(bytes_of)
    assert {key: (x.shape, x.dtype) for key, x in blank.items()} == {
        key: (x.shape, x.dtype) for key, x in bytes_of.items()
    }
    assert not pixels.all_numbers(blank)["x"].any()
    assert not np.asarray(jax.jit(pixels.numbers, static_argnums=1)(blank, "x")).any()
    assert not pixels.blank({"x": np.ones((1, 2), np.float32)})["x"].any()


def test_bytes_without_their_scale_are_refused():
    with pytest.raises(ValueError, match="x are uint8, without x_scale: give normalised float32"):
        pixels.numbers({"x": LEVELS}, "x")
    config = VitConfig(8, 8, 1, 1, image_size=16, patch_size=8)
    with pytest.raises(ValueError, match="pixel_values are uint8: a tower takes normalised ones"):
        Vit.features(type("Tower", (), {"config": config}), LEVELS[None])
