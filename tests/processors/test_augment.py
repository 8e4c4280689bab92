"""Random crops, flips and RandAugment: how they are drawn, and each operation beside its definition."""

import dataclasses
import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

from instructblip_jax.mesh import make_mesh
from instructblip_jax.pixels import numbers
from instructblip_jax.processors.augment import OPERATIONS, AugmentConfig, crop_box
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from instructblip_jax.processors.image_text import ImageTextProcessor
from instructblip_jax.run import check
from instructblip_jax.run.config import DataConfig, MixtureConfig, RunConfig, differences

FULL = AugmentConfig(crop=0.5, flip=True, operations=2, magnitude=7)


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


def same(pixels: np.ndarray) -> np.ndarray:
    return pixels


def applied(number: int, value: float, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(OPERATIONS[number][0](Image.fromarray(pixels), value)).astype(int)


# Crops


@pytest.mark.parametrize("size", [(640, 480), (100, 300), (32, 32)])
def test_crops_have_the_shares_and_ratios_that_are_asked_for(size):
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(*size, 0.2, rng) for _ in range(2000)])
    left, top, width, height = boxes.T
    assert (left.min(), top.min()) == (0, 0)
    assert ((left + width).max(), (top + height).max()) == size
    shares, ratios = width * height / (size[0] * size[1]), width / height
    assert 0.18 < shares.min() < 0.3
    assert 0.7 < ratios.min() < ratios.max() < 1.42  # sides are rounded
    if size == (32, 32):
        assert shares.max() > 0.95
        assert abs(np.median(np.log(ratios))) < 0.05


@pytest.mark.parametrize(
    ("size", "least", "box"),
    [
        ((1000, 10), 0.9, (493, 0, 13, 10)),  # too wide: 4/3 of the height, in the middle
        ((10, 1000), 0.9, (0, 493, 10, 13)),
        ((1, 500), 0.9, (0, 249, 1, 1)),
        ((4000, 3000), 1.0, (0, 0, 4000, 3000)),
    ],
)
def test_the_crop_where_none_that_is_drawn_fits(size, least, box):
    assert {crop_box(*size, least, np.random.default_rng(seed)) for seed in range(3)} == {box}


def test_a_crop_is_resized_as_a_picture_is():
    pixels = noise(60, 40)
    left, top, width, height = crop_box(60, 40, 0.3, np.random.default_rng(5))
    seen = []
    AugmentConfig(crop=0.3)(pixels, lambda part: seen.append(part) or part, np.random.default_rng(5))
    np.testing.assert_array_equal(seen[0], pixels[top : top + height, left : left + width])


def test_every_second_picture_is_mirrored():
    pixels, rng = noise(6, 4), np.random.default_rng(0)
    drawn = [AugmentConfig(flip=True)(pixels, same, rng) for _ in range(400)]
    mirrored = [np.array_equal(one, pixels[:, ::-1]) for one in drawn]
    assert all(flip or np.array_equal(one, pixels) for flip, one in zip(mirrored, drawn, strict=True))
    assert 160 < sum(mirrored) < 240


# Operations


def test_the_operations_are_drawn_as_in_the_papers():
    rng, count = np.random.default_rng(0), 4000
    drawn = [AugmentConfig(operations=2, magnitude=7).drawn(rng) for _ in range(count)]
    assert {len(one) for one in drawn} == {0, 1, 2}
    found: dict[int, list[float]] = {}
    functions = [operation for operation, *_ in OPERATIONS]
    for operation, value in itertools.chain.from_iterable(drawn):
        found.setdefault(functions.index(operation), []).append(value)
    assert set(found) == set(range(10))
    for values in found.values():  # with replacement: two draws a picture, each applied with probability 1/2
        assert len(values) == pytest.approx(2 * count / 10 / 2, rel=0.2)
    values = {number: sorted({round(value, 6) for value in found[number]}) for number in range(3, 10)}
    assert values == {
        3: [1.36],
        4: [1.36],
        5: [-0.21, 0.21],
        6: [-0.21, 0.21],
        7: [-7, 7],
        8: [-7, 7],
        9: [-21, 21],
    }
    assert sum(value > 0 for value in found[9]) == pytest.approx(len(found[9]) / 2, rel=0.2)


def test_colours():
    pixels = noise(20, 16) // 2 + 40
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(applied(0, 0, pixels), pixels)
    np.testing.assert_array_equal(applied(1, 0, pixels), np.asarray(ImageOps.autocontrast(image)))
    np.testing.assert_array_equal(applied(2, 0, pixels), np.asarray(ImageOps.equalize(image)))
    np.testing.assert_array_equal(applied(3, 1.36, pixels), np.minimum(np.float32(1.36) * pixels, 255).astype(int))
    for number in (3, 4):
        np.testing.assert_array_equal(applied(number, OPERATIONS[number][1](0.5), pixels), pixels)  # BLIP's magnitude
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = np.stack([ndimage.convolve(pixels[..., c].astype(float), kernel) for c in range(3)], -1).round()
    sharp = np.clip(smooth + 1.36 * (pixels - smooth), 0, 255)
    assert np.abs(applied(4, 1.36, pixels) - sharp)[1:-1, 1:-1].max() < 1.5


def warped(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Exact bilinear weights: pixel (x, y) goes to ``matrix`` (x, y, 1), grey comes from outside."""
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    y, x = np.indices(pixels.shape[:2])
    sx, sy, _ = np.tensordot(back, np.stack([x, y, np.ones_like(x)]), 1)
    return np.stack(
        [
            ndimage.map_coordinates(pixels[..., c].astype(float), (sy, sx), order=1, mode="constant", cval=128)
            for c in range(3)
        ],
        -1,
    )


def turned(degrees: float, width: int, height: int) -> np.ndarray:
    cos, sin, x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), width / 2, height / 2
    return np.array([[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y]])


@pytest.mark.parametrize(
    ("number", "value", "matrix"),
    [
        (5, 0.21, np.array([[1, 0.21, 0], [0, 1, 0]])),
        (6, -0.15, np.array([[1, 0, 0], [-0.15, 1, 0]])),
        (7, 7, np.array([[1, 0, -7], [0, 1, 0]])),
        (8, -5, np.array([[1, 0, 0], [0, 1, 5]])),
        (9, 21, turned(21, 50, 40)),
        (9, -15, turned(-15, 50, 40)),
    ],
)
def test_places(number, value, matrix):
    pixels = noise(50, 40)
    got, want = applied(number, value, pixels), warped(pixels, matrix)
    # The places are the same but for the outermost row that lies half outside.
    inside = ndimage.minimum_filter(warped(np.full_like(pixels, 255), matrix) > 254, (3, 3, 1))
    outside = ndimage.minimum_filter(warped(np.full_like(pixels, 255), matrix) == 128, (3, 3, 1))
    assert inside.mean() > 0.5
    assert np.abs(got - want)[inside].max() < 1.001
    assert outside.any()
    assert (got[outside] == 128).all()


# The processor


class Plain(ImageTextProcessor):
    def __init__(self, rescale: float = 1 / 255):
        self.image = ImageProcessor(32, 32, CLIP_MEAN, CLIP_STD, rescale, Image.Resampling.BICUBIC)


def encoded(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_media_are_drawn_in_training_and_never_in_evaluation():
    plain, media = Plain(), [("image", encoded(noise(48, 40)))]
    drawing = plain.augmenting(FULL)
    assert (drawing.augments, plain.augments, plain.augmenting(AugmentConfig()).augments) == (True, False, False)
    fixed, drawn = plain.media(media), drawing.media(media, rng=rng())
    assert drawn["pixel_values"].dtype == np.uint8
    assert {key: x.shape for key, x in drawn.items()} == {key: x.shape for key, x in fixed.items()}
    np.testing.assert_array_equal(drawn["pixel_values_scale"], fixed["pixel_values_scale"])
    assert not np.array_equal(drawn["pixel_values"], fixed["pixel_values"])
    for same in (drawing.media(media), plain.media(media, rng=rng()), drawing.resizing("exact").media(media)):
        np.testing.assert_array_equal(same["pixel_values"], fixed["pixel_values"])
    np.testing.assert_array_equal(drawing.media(media, rng=rng())["pixel_values"], drawn["pixel_values"])
    assert not np.array_equal(drawing.media(media, rng=rng(4))["pixel_values"], drawn["pixel_values"])


def test_frames_are_drawn_alike_and_pictures_one_by_one():
    content, drawing = encoded(noise(48, 40)), Plain().augmenting(FULL)
    for seed in range(4):
        frames = drawing.media([("frame", content)] * 3, rng=rng(seed))["pixel_values"]
        np.testing.assert_array_equal(frames[1:], frames[:-1])
        pictures = drawing.media([("image", content)] * 2, rng=rng(seed))["pixel_values"]
        assert not np.array_equal(*pictures)


def test_an_upright_picture_is_not_turned_again():
    pixels = noise(40, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    upright = Plain().image.pixels(np.rot90(pixels, -1))
    media, mirroring = [("image", encoded(pixels, exif=exif))], Plain().augmenting(AugmentConfig(flip=True))
    got = {mirroring.media(media, rng=rng(seed))["pixel_values"].tobytes() for seed in range(9)}
    assert got == {upright.tobytes(), upright[:, ::-1].tobytes()}


def test_numbers_without_an_exact_scale_are_drawn_too():
    media, odd = [("image", encoded(noise(48, 40)))], Plain(rescale=0.0039)
    assert odd.image.scale is None
    got = odd.augmenting(FULL).media(media, rng=rng())
    assert got["pixel_values"].dtype == np.float32
    drawn = Plain().augmenting(FULL).media(media, rng=rng())
    np.testing.assert_allclose(got["pixel_values"], numbers(drawn, "pixel_values"), atol=0.05)


# The run


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": 1.5}, r"config\.data\.augment\.crop is 1\.5; it is a share of the area"),
        ({"crop": math.nan}, r"config\.data\.augment\.crop is nan"),
        ({"operations": -1}, r"config\.data\.augment\.operations is -1"),
        ({"magnitude": 11}, r"config\.data\.augment\.magnitude is 11; it is from 0 to 10"),
    ],
)
def test_fields_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        check.check(run(augment=AugmentConfig(**fields)), make_mesh())


def run(**data) -> RunConfig:
    return RunConfig("M", 1, 8, MixtureConfig(("count",)), DataConfig(**data))


def test_a_run_with_cached_features_draws_no_pictures():
    with pytest.raises(ValueError, match=r"config\.data\.features .* and config\.data\.augment"):
        check.check(run(features="cache", augment=FULL), make_mesh())
    check.check(run(features="cache", augment=AugmentConfig(magnitude=7)), make_mesh())
    assert differences(run(augment=dataclasses.replace(FULL, exchange=True)), run()) == [
        "data.augment.crop (there 0.5, here 0.0)",
        "data.augment.exchange (there True, here False)",
        "data.augment.flip (there True, here False)",
        "data.augment.magnitude (there 7, here 5)",
        "data.augment.operations (there 2, here 0)",
    ]


def test_a_system_without_pictures_draws_none():
    system = object()
    assert BaseProcessor.augmenting(system, AugmentConfig()) is system
    with pytest.raises(ValueError, match=r"config\.data\.augment: this system's media are not pictures"):
        BaseProcessor.augmenting(system, FULL)
