"""The file that holds the picture settings: of before transformers 5, of today, or both."""

import json

import checkpoints
import pytest
import toys

import instructblip_jax as ib
from instructblip_jax.convert.export import export
from instructblip_jax.processors.image import ImageProcessor

OLD, NEW = "preprocessor_config.json", "processor_config.json"


def of(size: int) -> dict:
    return {"image_processor_type": "BlipImageProcessor", "size": {"height": size, "width": size}}


def write(directory, **files) -> None:
    """preprocessor="..." and so on; sizes tell one from another."""
    for name, content in files.items():
        (directory / f"{name}_config.json").write_text(json.dumps(content))


CASES = {
    "old": ({"preprocessor": of(10)}, 10, 10),
    "old with a processor": ({"preprocessor": of(10), "processor": {"num_query_tokens": 4}}, 10, 10),
    "new": ({"processor": {"image_processor": of(20)}}, 20, 20),
    "new beside old": ({"preprocessor": of(10), "processor": {"image_processor": of(20)}}, 20, 10),
    "null beside old": ({"preprocessor": of(10), "processor": {"image_processor": None}}, 10, 10),
    "new video": ({"processor": {"video_processor": of(30)}}, 30, 30),
    "new video beside old": ({"preprocessor": of(10), "processor": {"video_processor": of(30)}}, 10, 30),
    "both new": ({"processor": {"image_processor": of(20), "video_processor": of(30)}}, 20, 30),
    "old video": ({"preprocessor": of(10), "video_preprocessor": of(40)}, 10, 40),
}
"""Files -> the size that a model of pictures takes, and one of videos."""


@pytest.mark.parametrize("case", CASES)
def test_the_file_that_wins_is_the_one_that_transformers_takes(tmp_path, case):
    files, *sizes = CASES[case]
    write(tmp_path, **files)
    for video, size in zip((False, True), sizes, strict=True):
        got = ImageProcessor.from_pretrained(tmp_path, video=video)
        assert (got.height, got.width) == (size, size)
    pytest.importorskip("transformers", reason="the reference is not installed")
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.video_processing_utils import BaseVideoProcessor

    if case != "new video":  # of which theirs finds nothing for pictures
        assert ImageProcessingMixin.get_image_processor_dict(tmp_path)[0]["size"]["height"] == sizes[0]
    if case != "new":
        assert BaseVideoProcessor.get_video_processor_dict(tmp_path)[0]["size"]["height"] == sizes[1]


def test_the_file_and_field_are_named_where_they_cannot_be_used(tmp_path):
    write(tmp_path, processor={"image_processor": of(20) | {"image_mean": [0.5, 0.5]}})
    with pytest.raises(ValueError, match=rf"{NEW}: image_processor\.size, image_mean"):
        ImageProcessor.from_pretrained(tmp_path)
    write(tmp_path, processor={"image_processor": "BlipImageProcessor"})
    with pytest.raises(ValueError, match=f"{NEW}: image_processor is not an object"):
        ImageProcessor.from_pretrained(tmp_path)
    write(tmp_path, processor={"num_query_tokens": 4})
    with pytest.raises(FileNotFoundError, match=f"{OLD}: no such file, and {NEW} has no image_processor"):
        ImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
@pytest.mark.parametrize("field", ["image_mean", "image_std", "rescale_factor"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, field, value):
    for name, text in ((OLD, "{%s}"), (NEW, '{"image_processor": {%s}}')):
        said = f'"{field}": {value if field == "rescale_factor" else f"[0.5, {value}, 0.5]"}'
        (tmp_path / name).write_text(text % f'"size": 24, {said}')
        with pytest.raises(ValueError, match=rf"{name}: .*{field}.* is unusable"):
            ImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("switch", ["do_resize", "do_rescale", "do_normalize"])
def test_steps_that_are_switched_off_are_refused(tmp_path, switch):
    write(tmp_path, preprocessor=of(24) | {switch: False})
    with pytest.raises(ValueError, match=f"{OLD}: {switch} is false"):
        ImageProcessor.from_pretrained(tmp_path)
    write(tmp_path, preprocessor=of(24) | {switch: None})
    assert ImageProcessor.from_pretrained(tmp_path).height == 24


def test_the_processor_names_the_file_whose_size_is_another_than_the_models(tmp_path):
    toys.write_processor(tmp_path)
    (tmp_path / OLD).unlink()
    write(tmp_path, processor={"image_processor": of(toys.SIZE + 8)})
    with pytest.raises(
        ValueError, match=rf"{NEW}: size is 32 x 32, but config\.json's vision_config\.image_size is 24"
    ):
        ib.Processor.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["instructblip", "instructblipvideo"])
def test_an_export_for_larger_pictures_says_so_in_every_file(tmp_path, kind):
    source, size = tmp_path / "model", 28
    checkpoints.write(source, checkpoints.config_json(kind, checkpoints.MINI))
    files = {name: of(42) for name in ("preprocessor", "video_preprocessor")}
    write(source, **files, processor={"image_processor": of(42), "video_processor": of(42), "num_query_tokens": 6})
    export(tmp_path / "out", source, {}, image_size=size)
    for name in files:
        assert json.loads((tmp_path / "out" / f"{name}_config.json").read_text()) == of(size)
    assert json.loads((tmp_path / "out" / NEW).read_text()) == {
        "image_processor": of(size),
        "video_processor": of(size),
        "num_query_tokens": 6,
    }
