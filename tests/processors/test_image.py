"""Pictures against the reference's own image processor (its PIL form), bit for bit."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor, UnusableImageError, open_image

HEIGHT, WIDTH = 37, 51
OURS = ImageProcessor(HEIGHT, WIDTH, CLIP_MEAN, CLIP_STD, 1 / 255, Image.Resampling.BICUBIC)
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng([height, width, channels])
    shape = (height, width, channels) if channels > 1 else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def picture(mode: str, transparency: object = None) -> Image.Image:
    """Noise in a mode, with alpha of every degree where the mode has it."""
    image = Image.fromarray(noise(29, 43))
    if mode == "I;16":
        return Image.fromarray(noise(29, 43, 1).astype(np.uint16) * 3)
    if mode in ("LA", "RGBA", "PA", "RGBa"):
        image = image.convert("RGBA")
        image.putalpha(Image.fromarray(noise(29, 43, 1)))
    image = image.convert(mode)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(image: Image.Image, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The arithmetic of the reference, written out."""
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    scaled = (resized * (1 / 255)).astype(np.float32)
    return (scaled - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)


@pytest.fixture(scope="session")
def reference():
    module = pytest.importorskip("transformers.models.blip.image_processing_pil_blip")

    def process(image, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
        processor = module.BlipImageProcessorPil(size={"height": height, "width": width})
        return processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)

    return process


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "LA", "RGBA", "PA", "RGBa"],
)
def test_every_mode_is_the_reference_bit_for_bit(reference, mode):
    image = picture(mode)
    before = image.tobytes()
    got = OURS(image)
    assert got.dtype == np.float32
    assert got.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(got, reference(image))
    assert (image.mode, image.tobytes()) == (mode, before)


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [("P", 3), ("P", bytes(range(256))), ("L", 7), ("RGB", (1, 2, 3)), ("1", 0)],
    ids=["palette-index", "palette-table", "grey", "colour", "bit"],
)
def test_declared_transparency_is_laid_on_white_as_the_reference_does(reference, mode, transparency):
    image = picture(mode, transparency)
    np.testing.assert_array_equal(OURS(image), reference(image))


def test_what_is_fully_transparent_is_white():
    clear = Image.new("RGBA", (5, 4), (200, 10, 30, 0))
    assert (np.asarray(open_image(clear)) == 255).all()
    half = Image.new("LA", (5, 4), (0, 128))
    assert np.abs(np.asarray(open_image(half)).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 2), (37, 51), (51, 37), (36, 52), (601, 333)])
def test_odd_sizes_are_resized_without_regard_to_the_aspect(reference, size):
    image = Image.fromarray(noise(*size))
    got = OURS(image)
    np.testing.assert_array_equal(got, reference(image))
    np.testing.assert_array_equal(got, plain(image))


def test_the_public_size(reference):
    image = Image.fromarray(noise(480, 640))
    ours = ImageProcessor(224, 224, CLIP_MEAN, CLIP_STD, 1 / 255, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(ours(image), reference(image, 224, 224))


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores an upright picture under an EXIF orientation: which side row 0 and column 0 show."""
    last_row, last_column = upright.shape[0] - 1, upright.shape[1] - 1
    rows, columns = np.indices(upright.shape[1::-1] if orientation > 4 else upright.shape[:2])
    where = {
        1: (rows, columns),  # top, left
        2: (rows, last_column - columns),  # top, right
        3: (last_row - rows, last_column - columns),  # bottom, right
        4: (last_row - rows, columns),  # bottom, left
        5: (columns, rows),  # left, top
        6: (columns, last_column - rows),  # right, top
        7: (last_row - columns, last_column - rows),  # right, bottom
        8: (last_row - columns, rows),  # left, bottom
    }[orientation]
    return upright[where]


def turned(upright: np.ndarray, orientation: int, kind: str, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(stored(upright, orientation)), kind, exif=exif, **options)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(kind, orientation):
    upright = noise(5, 8)
    data = turned(upright, orientation, kind, **LOSSLESS[kind])
    np.testing.assert_array_equal(np.asarray(open_image(data)), upright)
    lazy = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(open_image(lazy)), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_upright(orientation):
    upright = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((8, 16), np.uint8))[..., None].repeat(3, -1)
    got = np.asarray(open_image(turned(upright, orientation, "JPEG", quality=95))).astype(int)
    assert got.shape == upright.shape
    assert np.abs(got - upright).max() < 12


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_orientation_that_there_is_not_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise(5, 8)), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(data)), noise(5, 8))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_does_not_make_the_picture_unusable():
    """Cameras and editors write tags of the wrong type; Pillow cannot write these back, and need not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0106] = 2  # a number, turned into text below
    data = encoded(Image.fromarray(np.full((4, 6, 3), 90, np.uint8)), "JPEG", exif=exif)
    at = data.index(b"\x01\x06\x00\x03")
    broken = data[: at + 3] + b"\x02" + data[at + 4 :]
    assert Image.open(io.BytesIO(broken)).getexif()[0x0106] != 2
    assert open_image(broken).size == (4, 6)
    for n in range(at - 20, len(data) - 300):  # and whatever else may be wrong there, nothing strange is raised
        try:
            open_image(data[:n] + b"\xff" + data[n + 1 :])
        except UnusableImageError:
            continue


def test_path_string_bytes_picture_and_array_are_the_same(tmp_path):
    array = noise(29, 43)
    path = tmp_path / "a picture.png"
    path.write_bytes(encoded(Image.fromarray(array)))
    want = plain(Image.fromarray(array))
    read_only = array.copy()
    read_only.setflags(write=False)
    strided = np.concatenate([array, array], axis=1)[:, :43]
    for given in (path, str(path), path.read_bytes(), Image.open(path), array, read_only, strided, array[::-1][::-1]):
        np.testing.assert_array_equal(OURS(given), want)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_format_is_decoded_as_pillow_does(kind):
    data = encoded(Image.fromarray(noise(20, 30)), kind)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(data)), want)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("MPO", {"quality": 95})])
def test_of_a_moving_picture_the_first_frame_counts(kind, options):
    first, second = (Image.new("RGB", (16, 16), grey) for grey in ((30,) * 3, (220,) * 3))
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.abs(np.asarray(open_image(data)).astype(int) - 30).max() < 3


# What cannot be read: an UnusableImageError that names the file, and nothing else.


def refused(given, name: str) -> str:
    with pytest.raises(UnusableImageError) as caught:
        OURS(given)
    message = str(caught.value)
    assert message.startswith(name)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, kind, keep):
    data = encoded(Image.fromarray(noise(60, 80)), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(keep * len(data))])
    refused(path, str(path))
    refused(path.read_bytes(), "image")
    try:
        lazy = Image.open(path)
    except OSError:
        return  # already too short for a header
    refused(lazy, "image")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_raises_nothing_but_unusable():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    rng, unusable = np.random.default_rng(0), 0
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
        data = encoded(Image.fromarray(noise(20, 24)), kind, **options)
        for _ in range(150):
            damaged = bytearray(data)
            for at in rng.integers(0, 150, 4):
                damaged[at] = rng.integers(256)
            try:
                assert open_image(bytes(damaged)).mode == "RGB"
            except UnusableImageError:
                unusable += 1
    assert 100 < unusable < 700


def test_files_that_are_missing_empty_or_no_picture_are_named(tmp_path):
    missing = tmp_path / "missing.png"
    assert "no such file" in refused(missing, str(missing))
    assert "no such file" in refused(tmp_path, str(tmp_path))
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4\n%", b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        path = tmp_path / "file.png"
        path.write_bytes(content)
        refused(path, str(path))
        refused(str(path), str(path))
    with pytest.raises(UnusableImageError, match=r"^a name of its own: "):
        OURS(b"", "a name of its own")


@pytest.mark.parametrize("text", ["", "x" * 5000, "a\0b.png", "data:image/png;base64," + "iVBORw0KGgo" * 1000])
def test_text_that_is_no_path_is_unusable_too(text):
    with pytest.raises(UnusableImageError):
        OURS(text)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "PCX", "TGA"])
def test_formats_that_are_not_named_are_not_read(tmp_path, kind):
    path = tmp_path / "picture"
    Image.fromarray(noise(16, 16)).save(path, kind)
    assert "JPEG, PNG" in refused(path, str(path))


@pytest.mark.parametrize(("width", "height"), [(8000, 6251), (20_000, 10_000), (60_000, 60_000)])
def test_huge_pictures_are_refused_by_their_header(tmp_path, width, height):
    header = bytearray(encoded(Image.new("L", (1, 1)), "BMP"))
    header[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path = tmp_path / "bomb.bmp"
    path.write_bytes(header)
    message = refused(path, str(path))
    assert "megapixels" in message
    assert "corrupt" not in message


def test_a_picture_of_just_fifty_megapixels_is_read_and_one_more_row_is_not():
    assert open_image(Image.new("1", (10_000, 5_000))).size == (10_000, 5_000)
    assert "megapixels" in refused(Image.new("1", (10_000, 5_001)), "image")


def test_a_file_of_more_than_fifty_mebibytes_is_not_opened(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate((50 << 20) + 1)
    assert "50 MiB" in refused(path, str(path))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays_of_another_type_or_shape_are_refused_with_both(array):
    message = refused(array, "image")
    assert str(array.dtype) in message
    assert str(array.shape) in message


@pytest.mark.parametrize("thing", [5, None, [1, 2], bytearray(b"abc"), {"image": 1}])
def test_other_things_are_refused_by_their_type(thing):
    assert type(thing).__name__ in refused(thing, "image")


# preprocessor_config.json


def read(directory: Path, **changes) -> ImageProcessor:
    raw = {"size": {"height": 30, "width": 40}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    raw = {key: value for key, value in (raw | changes).items() if value != "absent"}
    (directory / "preprocessor_config.json").write_text(json.dumps(raw))
    return ImageProcessor.from_pretrained(directory)


def test_sizes_and_numbers_come_from_the_file(tmp_path, reference):
    got = read(tmp_path, rescale_factor=0.5, resample=2)
    assert (got.height, got.width, got.mean, got.std) == (30, 40, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (got.rescale, got.resample) == (0.5, Image.Resampling.BILINEAR)
    assert (read(tmp_path, size=56).height, read(tmp_path, size=56).width) == (56, 56)
    sparse = read(tmp_path, image_mean="absent", image_std="absent")
    assert (sparse.mean, sparse.std, sparse.rescale) == (CLIP_MEAN, CLIP_STD, 1 / 255)
    image = Image.fromarray(noise(50, 60))
    np.testing.assert_array_equal(sparse(image), reference(image, 30, 40))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": "absent"},
        {"size": None},
        {"size": {"shortest_edge": 224}},
        {"size": {"height": "tall", "width": 3}},
        {"size": {"height": 0, "width": 3}},
        {"size": -3},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": 0.5},
        {"image_std": [1, 1, 1, 1]},
        {"image_std": [0.2, 0.0, 0.2]},
        {"image_std": ["a", "b", "c"]},
        {"resample": 77},
        {"rescale_factor": "much"},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_used_is_one_error_naming_the_file(tmp_path, changes):
    with pytest.raises(ValueError, match="is unusable") as caught:
        read(tmp_path, **changes)
    assert str(tmp_path / "preprocessor_config.json") in str(caught.value)
    assert next(iter(changes)) in str(caught.value)


def test_an_absent_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        ImageProcessor.from_pretrained(tmp_path)
