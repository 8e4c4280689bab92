"""Texts of all lengths in few static shapes: what is padded, and what is too long."""

import copy
import dataclasses
from collections import Counter

import numpy as np
import pytest

from instructblip_jax.data import buckets, loader, visits
from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.prepared import open_set
from instructblip_jax.data.record import Record
from instructblip_jax.processors.instructblip import InstructBlipProcessor
from instructblip_jax.validation import HeldOut

LARGEST = (128, 256)


def mixture(rng: np.random.Generator, count: int) -> np.ndarray:
    """Lengths [N, 2] as the paper's mixture has them: questions and answers, captions, OCR tokens, stories."""
    kinds = {  # share by the square root of size; instruction's mean and deviation; response's
        "caption": (0.55, 7, 3, 13, 4),
        "vqa": (0.11, 18, 5, 3, 1),
        "ocr": (0.15, 50, 25, 8, 4),
        "question": (0.11, 15, 4, 9, 3),
        "story": (0.08, 25, 12, 90, 60),
    }
    shares = np.array([kind[0] for kind in kinds.values()])
    drawn = np.array(list(kinds.values()))[rng.choice(len(kinds), count, p=shares / shares.sum())]
    lengths = np.stack([rng.normal(drawn[:, 1], drawn[:, 2]), rng.normal(drawn[:, 3], drawn[:, 4])], -1)
    return np.clip(np.rint(lengths), (3, 2), LARGEST).astype(int)


def padded(lengths: np.ndarray, shapes, batch: int, window: int) -> float:
    """The share of padding in the language model's sequences, 32 visual tokens and the text."""
    tokens = computed = 0
    for start in range(0, len(lengths) - batch * window + 1, batch * window):
        those = lengths[start : start + batch * window]
        rows = [loader._Example(None, 0, visits.Visit({}, tuple(pair))) for pair in those]
        for part in loader._cut(rows, batch, shapes):
            needed = np.array([row.visit.lengths for row in part])
            shape = shapes[buckets.assign(needed.max(0, keepdims=True), shapes)[0]]
            tokens += needed.sum() + 32 * batch
            computed += batch * (sum(shape) + 32)
    return 1 - tokens / computed


def test_a_realistic_mix_wastes_little():
    shapes = buckets.fit(mixture(np.random.default_rng(0), 8192), LARGEST, 32)
    assert len(shapes) <= 32
    assert LARGEST in shapes
    others = mixture(np.random.default_rng(1), 4 * 128 * 16)
    fitted = padded(others, shapes, 16, 128)
    assert fitted < 0.15
    assert padded(others, loader.grid((32, 64, 128), (16, 64, 256)), 16, 4) > 3 * fitted


def test_shapes_hold_every_row_that_the_largest_holds():
    lengths = mixture(np.random.default_rng(2), 1000)
    shapes = buckets.fit(lengths, LARGEST, 5)
    kinds = buckets.assign(lengths, shapes)
    assert (kinds >= 0).all()
    assert (lengths <= np.array(shapes)[kinds]).all()
    assert buckets.assign(np.array([[129, 1], [1, 257]]), shapes).tolist() == [-1, -1]


def test_one_shape_is_the_largest_and_equal_rows_need_one_more():
    lengths = np.full((50, 2), (9, 3))
    assert buckets.fit(lengths, (40, 24), 1) == [(40, 24)]
    assert buckets.fit(lengths, (40, 24), 9) == [(12, 4), (40, 24)]
    assert buckets.fit(np.array([[50, 1], [1, 1]]), (40, 24), 4) == [(4, 4), (40, 24)]


def records(prepared, count: int, **fields) -> list[Record]:
    images = open_set(prepared, "count", "train")[0].media
    return [
        Record(
            f"own/train/{n}",
            "own",
            "train",
            "vqa",
            images,
            {},
            **{"answers": ("1",), "instruction": "which ?"} | fields,
        )
        for n in range(count)
    ]


def stream(processor, source, templates=None, **changes):
    options = {"batch_size": 4, "instruction_lengths": (12,), "response_lengths": (8,), "seed": 0} | changes
    return training_batches({"own": source}, {"own": 1.0}, processor, templates or {}, **options)


def test_what_is_too_long_is_replaced_and_counted_and_nothing_is_cut(processor, prepared):
    source = records(prepared, 6)
    source[2] = Record(**{**vars(source[2]), "instruction": "which digit is top-left ? " * 5})
    source[3] = Record(**{**vars(source[3]), "answers": ("1 2 3 4 5 6 7 8 9",)})
    batches = stream(processor, source)
    uids, passed = Counter(), Counter()
    for _ in range(24):
        batch = next(batches)
        uids.update(batch["uid"])
        passed.update(batch["passed"])
    assert set(uids) == {"own/train/0", "own/train/1", "own/train/4", "own/train/5"}
    assert set(passed) == {"own/train/2", "own/train/3"}
    assert passed["own/train/2"] == 24 * 4 // 6
    assert uids["own/train/4"] > 2 * uids["own/train/0"]  # it stands for both
    first, again = stream(processor, source), stream(processor, source)
    assert [next(first)["uid"] for _ in range(9)] == [next(again)["uid"] for _ in range(9)]


def test_sampled_lengths_are_those_of_what_is_drawn(processor, prepared):
    """Each set as often as in the mixture, instruction and response as the loader counts them."""
    (one,) = records(prepared, 1)
    short = dataclasses.replace(one, uid="short/0", instruction="where ?", answers=("red",))
    long = dataclasses.replace(one, uid="long/0", instruction="which digit is top-left ?" * 3, answers=("red 3 , 4",))
    sources, shares = {"short": [short], "long": [long]}, {"short": 0.75, "long": 0.25}
    got = loader.sample_lengths(sources, shares, processor, {}, seed=1, count=400)
    want = [processor.lengths(processor.encode(r.instruction, r.answers[0], training=True)) for r in (short, long)]
    assert got.shape == (400, 2)
    assert {tuple(row) for row in got.tolist()} == set(want)
    assert abs((got == want[1]).all(1).mean() - 0.25) < 0.08  # 3.7 deviations
    np.testing.assert_array_equal(got, loader.sample_lengths(sources, shares, processor, {}, seed=1, count=400))


def test_answers_are_drawn_by_their_weights(processor, prepared):
    source = records(prepared, 1, weights=(0.75, 0.25), answers=("1", "2"))
    batches = stream(processor, [Record(**vars(source[0]))])
    drawn = Counter(text for _ in range(100) for text in decoded(processor, next(batches)["labels"]))
    assert 0.68 < drawn["1"] / sum(drawn.values()) < 0.82


def decoded(processor, labels: np.ndarray) -> list[str]:
    return processor.decode(np.where(labels == -100, 0, labels))


def test_a_turn_comes_with_what_was_said_before(processor, prepared):
    turns = (("which ?", "1"), ("where ?", "2"))
    source = records(prepared, 1, instruction=None, answers=(), turns=turns)
    templates = {"own": ["{history}{question}"]}
    batches = training_batches(
        {"own": source}, {"own": 1.0}, processor, templates,
        batch_size=4, instruction_lengths=(40,), response_lengths=(8,), seed=0,
    )  # fmt: skip
    seen = set()
    for _ in range(6):
        batch = next(batches)
        seen |= set(zip(processor.decode(batch["input_ids"]), decoded(processor, batch["labels"]), strict=True))
    first, second = sorted(seen, key=lambda pair: pair[1])
    assert first == ("which ?", "1")
    assert second[1] == "2"
    assert second[0].endswith("where ?")
    assert "which ?" in second[0]


def test_a_batch_shows_one_number_of_pictures_a_row_and_none_is_shown_twice(processor, prepared):
    one, two = records(prepared, 3), records(prepared, 3)
    image = one[0].media[0]
    other = open_set(prepared, "count", "train")[1].media[0]
    two = [
        Record(**{**vars(r), "uid": f"two/{n}", "dataset": "two", "media": (image, other)}) for n, r in enumerate(two)
    ]
    two[1] = Record(**{**vars(two[1]), "media": (image,)})
    none = Record(**{**vars(one[2]), "media": ()})
    sources, shares = {"own": [*one[:2], none], "two": two}, {"own": 0.75, "two": 0.25}
    batches = training_batches(
        sources, shares, processor, {}, batch_size=4, instruction_lengths=(12,), response_lengths=(8,), seed=0,
    )  # fmt: skip
    pixels, second = processor.image.pixels(image.data), processor.image.pixels(other.data)
    kinds, drawn = Counter(), Counter()
    for _ in range(96):
        batch = next(batches)
        shown = batch["pixel_values"].shape[1] if batch["pixel_values"].ndim == 5 else 1
        kinds[shown] += 1
        drawn.update(batch["uid"])
        for uid, row in zip(batch["uid"], batch["pixel_values"], strict=True):
            if uid in ("two/0", "two/2"):
                np.testing.assert_array_equal(row, [pixels, second])
            else:
                np.testing.assert_array_equal(row, 0 * pixels if uid == none.uid else pixels)
    assert kinds == {1: 80, 2: 16}  # the set "two" is a quarter, two thirds of which show two
    assert {uid: drawn[uid] for uid in ("two/0", "two/1", "two/2")} == {"two/0": 32, "two/1": 32, "two/2": 32}


def test_a_stream_of_mixed_numbers_of_pictures_resumes_anywhere(processor, prepared):
    """And every record is drawn as often as any other, a lone one with two pictures, too."""
    image, other = (open_set(prepared, "count", "train")[n].media[0] for n in (0, 1))
    plain = records(prepared, 1)[0]
    own = [dataclasses.replace(plain, uid=f"own/{n}", media=(image, other)[: 1 + (n == 3)]) for n in range(6)]

    def make():
        return training_batches(
            {"own": own},
            {"own": 1.0},
            processor,
            {},
            batch_size=4,
            instruction_lengths=(12,),
            response_lengths=(8,),
            seed=3,
        )

    whole = make()
    batches = [next(whole) for _ in range(48)]
    drawn = Counter(uid for batch in batches for uid in batch["uid"])
    assert drawn == {f"own/{n}": 32 for n in range(6)}
    assert {
        (batch["pixel_values"].ndim, *batch["uid"][:1]) for batch in batches if batch["pixel_values"].ndim == 5
    } == {(5, "own/3")}
    for cut in (1, 21, 22, 30):
        first, second = make(), make()
        for _ in range(cut):
            next(first)
        second.set_state(first.get_state())
        for want in batches[cut : cut + 4]:
            got = next(second)
            assert got["uid"] == want["uid"]
            np.testing.assert_array_equal(got["pixel_values"], want["pixel_values"])


class Conversing(InstructBlipProcessor):
    """Trains on all turns: questions before answers, and the number of pictures before both."""

    converses = True

    def converse(self, turns, pictures):
        questions, answers = zip(*turns, strict=True)
        return self.encode(" ".join((str(pictures), *questions)), " ".join(answers), training=True)


@pytest.fixture
def conversing(processor):
    other = copy.copy(processor)
    other.__class__ = Conversing
    return other


def test_conversations_lose_last_turns_and_never_a_part_of_one(conversing, prepared):
    (one,) = records(prepared, 1)
    medium = one.media[0]
    talk = dataclasses.replace(one, answers=(), instruction=None, turns=(("1", "2 , 3"), ("4", "5"), ("6", "7")))

    def said(record, largest):
        row = visits.text_of(record, np.random.default_rng(0), {}, conversing, largest)
        return conversing.decode(row["input_ids"][None])[0], conversing.decode(row["labels"][None])[0]

    whole = ("1 1 4 6", "2 , 3 5 7")
    full = conversing.lengths(conversing.converse(talk.turns, 1))
    assert said(talk, None) == said(talk, full) == whole
    assert said(talk, (full[0] - 1, full[1])) == said(talk, (full[0], full[1] - 1)) == ("1 1 4", "2 , 3 5")
    two = conversing.lengths(conversing.converse(talk.turns[:2], 1))
    assert said(talk, (full[0], two[1] - 1)) == said(talk, (two[0] - 1, full[1])) == ("1 1", "2 , 3")
    assert said(talk, (1, 1)) == ("1 1", "2 , 3")  # for the loader to pass over
    pictured = dataclasses.replace(talk, media=(medium, medium))
    assert said(pictured, None)[0] == "2 1 4 6"
    assert said(dataclasses.replace(talk, media=()), None)[0] == "0 1 4 6"
    assert said(one, None) == ("1 which ?", "1")  # one turn, drawn as ever


def test_a_conversation_whose_first_answer_is_too_long_is_passed_over(conversing, prepared):
    templates = {"own": ["{question}"]}
    source = [
        dataclasses.replace(record, instruction=None, answers=(), turns=(turn, ("5 6 7", "5 6 7 8 9 5 6")))
        for record, turn in zip(
            records(prepared, 3), [("1", "2"), ("3", "1 2 3 4 5 6 7 8 9"), ("4", "4 2")], strict=True
        )
    ]
    batches = stream(conversing, source, templates=templates)
    seen, passed, answers = Counter(), Counter(), set()
    for batch in (next(batches) for _ in range(9)):
        seen.update(batch["uid"])
        passed.update(batch["passed"])
        answers |= set(decoded(conversing, batch["labels"]))
    assert set(seen) == {"own/train/0", "own/train/2"}
    assert set(passed) == {"own/train/1"}
    assert answers == {"2", "4 2"}
    for largest, turns in ((None, 2), ((12, 8), 1)):  # shapes are fitted to what is left of them
        sampled = loader.sample_lengths(
            {"own": source}, {"own": 1.0}, conversing, templates, seed=0, count=20, largest=largest
        )
        assert {tuple(row) for row in sampled.tolist()} == {
            conversing.lengths(conversing.converse(record.turns[:turns], 1)) for record in source
        }


class Counting(InstructBlipProcessor):
    """Writes the number of pictures before every text."""

    def encode(self, instruction, response=None, *, training=False, pictures=1):
        return super().encode(f"{pictures} {instruction}", response, training=training)


def test_every_text_comes_with_the_number_of_its_pictures(processor, prepared):
    counting = copy.copy(processor)
    counting.__class__ = Counting
    (one,) = records(prepared, 1)
    for count in range(3):
        source = [dataclasses.replace(one, media=one.media * count)]
        held = HeldOut(source, counting, {}, rows=1, shapes=[(12, 8)], seed=0, own=np.arange(1))
        asked = next(evaluation_batches(source, counting, {}, batch_size=1, instruction_lengths=(12,)))
        trained = next(stream(counting, source, batch_size=1))
        for texts in (next(iter(held)), asked.text, trained):
            assert counting.decode(texts["input_ids"]) == [f"{count} which ?"]
