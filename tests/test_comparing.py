"""Pictures compared with texts: parts, sharing and refusals, on the minis of the systems that compare."""

import numpy as np
import pytest

import instructblip_jax as ib
from instructblip_jax import comparing

TEXTS = ("which digit is red ?", "a 7", "how many digits are there above the blue 3 ?", "no", "two")


@pytest.fixture(scope="module", params=["blip", "blip-2-stage-1"])
def loaded(request, mini):
    directory = mini(request.param)
    return ib.from_pretrained(directory, dtype="float32"), ib.Processor.from_pretrained(directory)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32, 40, 3), np.uint8) for _ in range(3)]


def test_neither_parts_nor_the_other_rows_change_a_result(loaded, pictures, monkeypatch):
    monkeypatch.setattr(comparing, "ROWS", 2)
    images, texts = ib.embed_images(*loaded, pictures), ib.embed_texts(*loaded, TEXTS)
    assert (len(images), len(texts), images.dtype, texts.dtype) == (3, 5, np.float32, np.float32)
    np.testing.assert_allclose(ib.embed_images(*loaded, pictures[2]), images[2:], atol=1e-6)
    np.testing.assert_allclose(ib.embed_texts(*loaded, TEXTS[1]), texts[1:2], atol=1e-6)
    assert np.abs(texts[0] - texts[1:]).max(axis=1).min() > 1e-3
    queries = images if images.ndim == 3 else images[:, None]
    want = np.array([[max(query @ text for query in own) for text in texts] for own in queries])
    np.testing.assert_allclose(ib.similarity(*loaded, pictures, TEXTS), want, atol=1e-6)


def test_one_picture_or_one_text_is_that_of_all_others(loaded, pictures, monkeypatch):
    monkeypatch.setattr(comparing, "ROWS", 2)
    pairs = ib.match(*loaded, pictures, TEXTS[:3])
    assert pairs.shape == (3,)
    assert ((pairs > 0) & (pairs < 1)).all()
    assert len(set(pairs.round(5))) == 3
    for n in range(3):
        np.testing.assert_allclose(ib.match(*loaded, pictures[n], TEXTS[:3])[n], pairs[n], atol=1e-6)
        np.testing.assert_allclose(ib.match(*loaded, pictures, TEXTS[n])[n], pairs[n], atol=1e-6)


def test_what_does_not_fit_is_refused(loaded, pictures, world):
    with pytest.raises(ValueError, match="3 images but 2 texts; give one text for each image, or one of either"):
        ib.match(*loaded, pictures, TEXTS[:2])
    with pytest.raises(ValueError, match="no image is given"):
        ib.embed_images(*loaded, [])
    with pytest.raises(ValueError, match=r"texts\[1\] is ' '; a text is needed"):
        ib.embed_texts(*loaded, ["a", " "])
    writes = ib.from_pretrained(world / "model"), ib.Processor.from_pretrained(world / "model")
    with pytest.raises(ValueError, match="model: this model does not compare images with texts"):
        ib.similarity(*writes, pictures, TEXTS)
