"""`config.data.resize` = "fast": how far it may deviate from Pillow's bicubic, for pictures of every shape and mode."""

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw

from instructblip_jax.mesh import make_mesh
from instructblip_jax.processors import fast_resize, jpeg
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.processors.fast_resize import FastImageProcessor
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from instructblip_jax.run import check
from instructblip_jax.run.config import DataConfig, MixtureConfig, RunConfig, differences

pytest.importorskip("cykooz_resizer")
SIDE = 224
EXACT = ImageProcessor(SIDE, SIDE, CLIP_MEAN, CLIP_STD, 1 / 255, Image.Resampling.BICUBIC)
FAST = FastImageProcessor(SIDE, SIDE, CLIP_MEAN, CLIP_STD, 1 / 255, Image.Resampling.BICUBIC)


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colours, shapes with edges, and the noise of a sensor."""
    rng = np.random.default_rng([width, height])
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(24):
        x, y, w, h = (int(n) for n in rng.integers(0, (width, height, width // 4 + 1, height // 4 + 1)))
        shape = draw.ellipse if rng.integers(2) else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(map(int, rng.integers(0, 256, 3))))
    noisy = np.asarray(image) + rng.normal(0, 5, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deviation(data) -> tuple[int, float]:
    """The largest and the mean difference of the two ways, of 255."""
    apart = np.abs(FAST.pixels(data).astype(int) - EXACT.pixels(data))
    return int(apart.max()), float(apart.mean())


@pytest.mark.parametrize(
    ("size", "largest", "mean"),
    [
        ((640, 480), 6, 0.25),  # decoded whole
        ((1600, 1200), 11, 0.32),  # at a half
        ((1901, 1851), 20, 0.4),  # at a quarter, which is no whole number of pixels
        ((3000, 40), 0, 0),
        ((250, 2000), 6, 0.25),
        ((20, 30), 0, 0),  # enlarged
        ((1, 1), 0, 0),
        ((SIDE, SIDE), 0, 0),
    ],
    ids=str,
)
def test_photographs_deviate_by_little(size, largest, mean):
    most, average = deviation(encoded(photograph(*size), quality=85))
    assert most <= largest
    assert average <= mean


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "PNG")]
)
def test_every_mode_is_read_as_exactly(mode, kind):
    most, average = deviation(encoded(photograph(500, 300, mode), kind))
    assert most <= 10
    assert average <= 0.3
    most, _ = deviation(photograph(500, 300, mode))
    assert most <= 10


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_pictures_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(2001, 1011), quality=90, exif=exif)
    narrow = dataclasses.replace(FAST, height=70, width=200)
    exact = dataclasses.replace(EXACT, height=70, width=200)
    assert np.abs(narrow.pixels(data).astype(int) - exact.pixels(data)).max() <= 20


@pytest.mark.parametrize(("size", "decoded"), [((893, 2000), 893), ((896, 896), 448), ((1800, 2000), 450)])
def test_files_are_never_decoded_below_twice_the_side(monkeypatch, size, decoded):
    seen, real = [], fast_resize.resized
    monkeypatch.setattr(fast_resize, "resized", lambda rgb, *rest: seen.append(rgb.shape[1]) or real(rgb, *rest))
    FAST.pixels(encoded(photograph(*size)))
    assert seen == [decoded]


def test_a_filter_without_a_counterpart_stays_exact():
    nearest = dataclasses.replace(FAST, resample=Image.Resampling.NEAREST)
    data = encoded(photograph(300, 200))
    np.testing.assert_array_equal(
        nearest.pixels(data), dataclasses.replace(EXACT, resample=Image.Resampling.NEAREST).pixels(data)
    )


def test_threads_resize_side_by_side():
    files = [encoded(photograph(300 + n, 200)) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(FAST.pixels, files * 4))
    for n, got in enumerate(found):
        np.testing.assert_array_equal(got, FAST.pixels(files[n % 8]))


def test_it_works_without_simplejpeg(monkeypatch):
    monkeypatch.setattr(jpeg, "decoded", lambda *_: None)
    most, average = deviation(encoded(photograph(1600, 1200)))
    assert most <= 6
    assert average <= 0.25


def run(resize: str) -> RunConfig:
    return RunConfig("M", 1, 8, MixtureConfig(("count",)), DataConfig(resize=resize))


def test_a_run_names_what_is_missing_and_what_is_unknown(monkeypatch):
    mesh = make_mesh()
    check.check(run("fast"), mesh)
    with pytest.raises(ValueError, match=r"config\.data\.resize is 'faster'; it is 'exact' or 'fast'"):
        check.check(run("faster"), mesh)
    monkeypatch.setattr(fast_resize, "missing", lambda: "cykooz_resizer")
    with pytest.raises(ValueError, match=r"cykooz_resizer cannot be imported: pip install -e '\.\[fast\]'"):
        check.check(run("fast"), mesh)
    check.check(run("exact"), mesh)


def test_a_run_does_not_resume_with_another_resize():
    assert differences(run("exact"), run("fast")) == ["data.resize (there 'exact', here 'fast')"]


def test_a_system_without_pictures_has_one_way():
    system = object()
    assert BaseProcessor.resizing(system, "exact") is system
    with pytest.raises(ValueError, match=r"config\.data\.resize is 'fast': this system's media are not pictures"):
        BaseProcessor.resizing(system, "fast")
