"""Rows of a training batch that show the same picture have the same identity, where a system asks for it."""

import copy
import io

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.processors.instructblip import InstructBlipProcessor
from instructblip_jax.processors.pairs import PICTURE, PairProcessor
from instructblip_jax.validation import HeldOut

LENGTHS = {"instruction_lengths": (24,), "response_lengths": (8,)}


class Asking(InstructBlipProcessor):
    identity_key = PICTURE


def record(uid: str, grey: int, image_id: int | str | None, dataset: str = "own") -> Record:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (grey,) * 3).save(file, "PNG")
    media = (Medium("image", file.getvalue()),)
    return Record(uid, dataset, "train", "vqa", media, {}, (uid,), instruction="which ?", image_id=image_id)


NAMED = [record(f"{n}", grey=n, image_id=f"p{n // 2}") for n in range(8)]
SHOWN = [record(f"s{n}", grey=n // 2, image_id=None) for n in range(8)]


def test_identities_of_records():
    first, second, other = NAMED[:3]
    assert first.identity == second.identity != other.identity
    assert record("a", 1, 5).identity == record("b", 2, "5").identity  # an id of either type
    assert record("a", 1, 5).identity != record("a", 1, 5, "another").identity
    assert SHOWN[0].identity == SHOWN[1].identity != SHOWN[2].identity
    assert all(0 <= one.identity < 1 << 31 for one in NAMED + SHOWN)
    assert record("a", 1, "coco_123").identity == 1_627_270_842  # the same on every machine, and in the next version


@pytest.fixture(scope="module")
def asking(processor):
    other = copy.copy(processor)
    other.__class__ = Asking
    return other


def batches(processor, records=NAMED + SHOWN, **options):
    return training_batches({"own": records}, {"own": 1.0}, processor, {}, batch_size=8, seed=3, **LENGTHS, **options)


def test_batches_hold_the_identities_of_their_rows(asking, processor):
    of = {one.uid: one.identity for one in NAMED + SHOWN}
    whole, part, plain = batches(asking), batches(asking, own=np.array([2, 5])), batches(processor)
    for _ in range(3):
        batch, host = next(whole), next(part)
        assert batch[PICTURE].dtype == np.int32
        assert batch[PICTURE].tolist() == [of[uid] for uid in batch["uid"]]
        np.testing.assert_array_equal(host[PICTURE], batch[PICTURE][[2, 5]])
        assert PICTURE not in next(plain)


def test_records_whose_media_are_read_again_have_the_same(asking, monkeypatch):
    want = next(batches(asking))
    monkeypatch.setattr("instructblip_jax.data.loader.KEPT", 0)
    got = next(batches(asking))
    assert got["uid"] == want["uid"]
    np.testing.assert_array_equal(got[PICTURE], want[PICTURE])


def test_held_out_records_have_them_too(asking):
    held = HeldOut(NAMED, asking, {}, rows=4, shapes=[(24, 8)], seed=0, own=np.arange(4), whole=True)
    found = np.concatenate([batch[PICTURE] for batch in held])
    assert sorted(found) == sorted(one.identity for one in NAMED)


@pytest.mark.parametrize("asks", [True, False])
def test_pairs_have_them_where_the_configuration_lists_them(asks):
    class Config:
        def batch(self, *_):
            return {"input_ids": ...} | ({PICTURE: ...} if asks else {})

    pairs = PairProcessor(Config(), None, None, end_id=0, stop_ids=frozenset())
    assert pairs.identity_key == (PICTURE if asks else "")
