"""The digits in four senses: what questions ask and answer, and what is shown, heard, filmed and felt."""

import io
from collections import Counter

import av
import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data.record import AUDIO, FRAME, IMAGE, POINTS
from instructblip_jax.datasets.digits import prepare, questions, records, scans, senses, strokes, voices

KINDS = {"seen": (IMAGE,), "heard": (AUDIO,), "filmed": (FRAME,) * strokes.FRAMES, "felt": (POINTS,)}
NUMBERS = [str(digit) for digit in range(10)]


def right(asked: questions.Asked) -> str:
    """The answer that the words of a question call for."""
    words, (digit, last) = asked.text.split(), (asked.digits[0], asked.digits[-1])
    named = [int(word) for word in words if word in NUMBERS]
    yes = None
    if "same" in words:
        yes = digit == last
    elif "two" in words or "one" in words:
        return "first" if (digit > last) == ("larger" in words) else "second"
    elif "even" in words or "odd" in words:
        yes = (digit % 2 == 1) == ("odd" in words)
    elif "than" in words:
        yes = digit > named[0] if "larger" in words else digit < named[0]
    elif named:
        yes = digit == named[0]
    return str(digit) if yes is None else "yes" if yes else "no"


@pytest.mark.parametrize("kind", questions.WORDINGS)
def test_a_question_has_the_answer_that_its_words_call_for(kind):
    rng = np.random.default_rng(0)
    drawn = [questions.draw(kind, rng, first=False) for _ in range(400)]
    assert all(one.answer == right(one) for one in drawn)
    assert {word for one in drawn for word in f"{one.text} {one.answer}".split()} <= questions.words()
    counts = Counter(one.answer for one in drawn).values()
    assert min(counts) > 0.75 * max(counts) or kind == "name"
    tested = {questions.draw(kind, rng, first=True).text for _ in range(9)}
    assert len(tested) == 1 or kind not in ("name", "same")


@pytest.mark.parametrize("sense", senses.SENSES)
def test_a_sense_shows_its_digits_in_its_own_kind_of_medium(sense):
    for name in (sense, f"{sense}{senses.FACTS}"):
        for record in senses.make(name, "train", 0, 5):
            assert record.kinds == KINDS[sense]
            assert record.meta["senses"] == [sense]


def test_questions_about_two_show_both_in_either_order_and_are_right_half_of_the_time():
    for name in ("larger_seen_heard", "same_filmed_felt"):
        made = list(senses.make(name, "test", 0, 20))
        assert list(Counter(record.answers[0] for record in made).values()) == [10, 10]
        assert {tuple(record.meta["senses"]) for record in made} == {senses.CROSS[name], senses.CROSS[name][::-1]}
        for record in made:
            assert record.kinds == tuple(kind for sense in record.meta["senses"] for kind in KINDS[sense])
            asked = questions.Asked(record.instruction, record.answers[0], tuple(record.meta["digits"]))
            assert asked.answer == right(asked)


def test_no_training_record_joins_two_media():
    assert len(senses.CROSS) == 20
    assert all(records.split_size(name, "train") == 0 for name in senses.CROSS)
    assert all(records.split_size(name, "train") for name in senses.SINGLE)


def test_the_voices_ship_and_none_is_in_two_splits():
    assert (voices.ASSETS / voices.FILE).stat().st_size < 1_500_000
    own = [voices.load(split) for split in voices.SHARES]
    assert sum(map(len, own)) == voices.VOICES
    assert len({voice.tobytes() for split in own for voice in split}) == voices.VOICES
    assert all(np.abs(split.astype(int)).max(-1).min() > 1000 for split in own)  # no clip is silent
    assert all((np.abs(split[..., -160:].astype(int)) < 1000).all() for split in own)  # none runs into the next


def test_a_clip_is_stored_without_loss():

    from instructblip_jax.datasets.digits.voices import speak

    samples = speak(3, "test", np.random.default_rng(0))
    assert voices.RATE / 10 < len(samples) <= (voices.SECONDS + 2 * voices.LEAD) * voices.RATE
    with av.open(io.BytesIO(voices.encode(samples))) as container:
        stored = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(stored, samples)


def test_a_film_ends_with_all_of_a_scan_and_never_loses_ink():
    for digit in range(10):
        scan = scans.load("train")[digit][0]
        shown = strokes.film(scan)
        assert len(shown) == strokes.FRAMES
        np.testing.assert_array_equal(shown[-1], scan)
        ink = [int((frame > 0).sum()) for frame in shown]
        assert 0 < ink[0] < ink[-1]
        assert ink == sorted(ink)


def test_frames_of_a_film_differ_in_ink_alone():
    first, *_, last = (np.asarray(frame, float) for frame in _frames())
    apart = np.abs(first - last).max(-1)
    assert apart.max() > 60  # the ink that came
    assert np.median(apart) < 4  # the ground stands still, but for JPEG


def _frames():
    (record,) = senses.make("filmed", "test", 0, 1)
    return [Image.open(io.BytesIO(medium.data)) for medium in record.media]


def test_points_lie_where_the_ink_is():
    scan = np.zeros((8, 8), np.uint8)
    scan[1:7, 2] = 255  # a stroke, upright, left of the middle
    points = strokes.cloud(scan, np.random.default_rng(0))
    assert points.shape == (strokes.POINTS, 3)
    assert points.dtype == np.float32
    across, up, deep = np.ptp(points, axis=0)
    assert up > 2 * across > 0
    assert deep < up
    assert points[:, 0].mean() < 0


def test_runs_that_name_the_sets_have_them_made():
    names = [*senses.SINGLE, *senses.CROSS]
    assert {*names} <= {*prepare.SETS}
    assert all(prepare.MAKERS[name] is senses.make for name in names)
