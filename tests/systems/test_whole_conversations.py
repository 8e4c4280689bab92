"""LLaVA's rows out of the loader: all turns of a conversation, with and without a picture, and what does not fit."""

import copy
import dataclasses
import io

import minis
import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.data.visits import text_of
from instructblip_jax.processor import Processor
from instructblip_jax.processors import conversation
from instructblip_jax.validation import HeldOut

LENGTHS = (80, 60)
"""Static lengths of the text before the first answer, and from there on; pictures come on top."""
LONG = "red blue red blue red blue red blue red blue "
TEMPLATES = {"talk": ["{question}"]}


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return Processor.from_pretrained(minis.write(tmp_path_factory.mktemp("llava") / "model", "llava"))


@pytest.fixture(scope="module")
def talk():
    """Records by name."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(picture, "PNG")
    base = Record("", "talk", "train", "dialog", (Medium("image", picture.getvalue()),), {}, ())
    turns = {
        "two": (("which digit is red ?", "3"), ("where ?", "top-left")),
        "text": (("how many ?", "two"), ("which ?", "3 and 4"), ("where ?", "right")),
        "long": (("which ?", LONG), ("where ?", LONG * 6), ("how many ?", "two")),
        "lost": (("which ?", LONG * 8), ("how many ?", "two")),
    }
    made = {name: dataclasses.replace(base, uid=f"talk/train/{name}", turns=own) for name, own in turns.items()}
    made["text"] = dataclasses.replace(made["text"], media=())
    made["answered"] = dataclasses.replace(
        base, uid="talk/train/answered", answers=("3",), instruction="which digit is blue ?"
    )
    return made


def rows(batch):
    """(ids, labels) of each row without the padding."""
    return [
        (ids[mask > 0].tolist(), labels[mask > 0].tolist())
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


def wanted(llava, record, count):
    config, turns = llava.config, record.turns[:count] or (("which digit is blue ?", "3"),)
    places = (len(record.media), config.tokens_per_picture, config.image_token_id, llava.end_id)
    return tuple(x.tolist() for x in conversation.encode(llava.tokenizer, config.conversation, turns, *places))


TAKEN = {"two": 2, "text": 3, "long": 1, "answered": 1}
"""Record -> how many of its turns fit; the first of "lost" does not."""


def test_all_turns_of_a_conversation_are_in_a_row(llava, talk):
    batches = training_batches(
        {"talk": list(talk.values())}, {"talk": 1.0}, llava, TEMPLATES,
        batch_size=4, instruction_lengths=LENGTHS[:1], response_lengths=LENGTHS[1:], seed=0,
    )  # fmt: skip
    seen, passed = set(), set()
    for batch in (next(batches) for _ in range(12)):
        passed |= set(batch["passed"])
        for uid, row, pixels in zip(batch["uid"], rows(batch), batch["pixel_values"], strict=True):
            name = uid.removeprefix("talk/train/")
            assert row == wanted(llava, talk[name], TAKEN[name])
            assert pixels.any() == (name != "text")
            seen.add(name)
    assert seen == set(TAKEN)
    assert passed == {"talk/train/lost"}


def test_so_are_they_in_validation(llava, talk):
    held = HeldOut(list(talk.values()), llava, TEMPLATES, rows=4, shapes=[LENGTHS], seed=0, own=np.arange(4))
    assert (held.taken, held.left_out) == (4, 1)
    found = [row for batch in held for row in rows(batch)]
    assert sorted(found) == sorted(wanted(llava, talk[name], count) for name, count in TAKEN.items())


def test_a_record_that_the_template_cannot_hold_is_named(llava, talk):
    plain = copy.copy(llava)
    plain.config = dataclasses.replace(llava.config, conversation="plain")
    with pytest.raises(ValueError, match=r"^talk/train/two: 2 turns, .*\.conversation='v1' has turns$"):
        text_of(talk["two"], np.random.default_rng(0), TEMPLATES, plain)
