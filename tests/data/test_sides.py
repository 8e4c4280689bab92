"""Two pictures that change places in training, with the words for them (`config.data.augment.exchange`)."""

import io

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.data.sides import exchanged, sides_exchanged
from instructblip_jax.processors.augment import AugmentConfig

LENGTHS = {"instruction_lengths": (24,), "response_lengths": (8,)}
EXCHANGE = AugmentConfig(exchange=True)


def test_sides_change_places_with_their_words():
    said = "The left one is right of a bright, LEFT-most Right; copyright, leftmost"
    there = "The right one is left of a bright, RIGHT-most Left; copyright, rightmost"
    assert sides_exchanged(said) == there
    assert sides_exchanged(there) == said


def medium(grey: int) -> Medium:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (grey,) * 3).save(file, "PNG")
    return Medium("image", file.getvalue())


def record(n: int, pictures: int = 2) -> Record:
    media = tuple(medium(100 * side + n) for side in range(pictures))
    return Record(f"own/{n}", "own", "train", "choice", media, {}, ("1",), instruction="which is left ?", image_id=n)


def test_records():
    one = record(3)
    other = exchanged(one)
    assert other.media == one.media[::-1]
    assert other.instruction == "which is right ?"
    assert exchanged(other) == one
    slots = Record("a", "a", "train", "choice", (), {"sentence": "a Left dog"}, ("x",))
    assert exchanged(slots).slots == {"sentence": "a Right dog"}


@pytest.fixture(scope="module")
def batches(processor):
    def make(records, augment=EXCHANGE, **options):
        drawing = processor.augmenting(augment)
        return training_batches({"own": records}, {"own": 1.0}, drawing, {}, batch_size=4, seed=3, **LENGTHS, **options)

    return make


@pytest.mark.parametrize("kept", [1024, 0], ids=["kept media", "media read again"])
def test_every_second_row_is_exchanged_in_pictures_and_words(batches, processor, kept, monkeypatch):
    monkeypatch.setattr("instructblip_jax.data.loader.KEPT", kept)
    records = [record(n) for n in range(8)]
    words = {side: processor.encode(f"which is {side} ?")["input_ids"] for side in ("left", "right")}
    assert not np.array_equal(words["left"], words["right"])
    changed, drawn = [], batches(records)
    for _ in range(12):
        batch = next(drawn)
        for ids, pixels in zip(batch["input_ids"], batch["pixel_values"], strict=True):
            first, second = (int(picture.max()) for picture in pixels)
            side = "left" if first < second else "right"
            np.testing.assert_array_equal(ids[: len(words[side])], words[side])
            changed.append(side == "right")
    assert 12 <= sum(changed) <= 36


def test_other_records_and_other_runs_are_not_exchanged(batches):
    for pictures, augment in ((1, EXCHANGE), (2, AugmentConfig())):
        records = [record(n, pictures) for n in range(4)]
        drawn, plain = batches(records, augment), batches(records, AugmentConfig())
        for _ in range(4):
            got, want = next(drawn), next(plain)
            assert got["uid"] == want["uid"]
            np.testing.assert_array_equal(got["input_ids"], want["input_ids"])
            np.testing.assert_array_equal(got["pixel_values"], want["pixel_values"])
