"""The digits world's made-up names: only a record's own examples say what is called what."""

from collections import Counter

import pytest

from instructblip_jax.data import prepared
from instructblip_jax.datasets.digits import naming, prepare, records
from instructblip_jax.datasets.digits.scene import COLOURS

SAMPLE = 30


@pytest.fixture(scope="module")
def made():
    return {
        (name, split): list(naming.make(name, split, 0, SAMPLE)) for name in naming.SIZES for split in ("train", "test")
    }


def named(made, split):
    return [record for name in (naming.DIGITS, naming.COLOURS) for record in made[name, split]]


def examples(record) -> list[tuple[int, str]]:
    """(picture, name) of each example."""
    return list(zip(record.parts[:-1:2], record.parts[1::2], strict=True))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_question_asks_for_a_name_that_its_examples_say(made, split):
    for record in named(made, split):
        (answer,) = record.answers
        assert answer in {text for _, text in examples(record)}
        assert record.parts[-1] == len(record.media) - 1
        assert record.instruction == "".join(naming.MARK if isinstance(part, int) else part for part in record.parts)


def test_names_of_the_test_split_are_in_no_training_record(made):
    assert {answer for record in named(made, "test") for answer in record.answers} == set(naming.UNHEARD)
    for record in named(made, "train"):
        assert not {text for _, text in examples(record)} & set(naming.UNHEARD)


def test_every_name_has_as_many_examples_as_the_others_and_is_asked_for_as_often_as_it_comes(made):
    for record in named(made, "test"):
        counts = Counter(text for _, text in examples(record))
        assert list(counts.values()) == [naming.SHOTS // 2] * 2
        first = {text for _, text in examples(record)[:2]}
        assert len(first) == 2  # one example of each comes before any second one


def test_what_is_called_what_differs_from_record_to_record():
    """A name that kept its digit would need no examples."""
    meant: dict[str, set[str]] = {}
    for record in naming.make(naming.DIGITS, "test", 0, 200):
        meant.setdefault(record.answers[0], set()).add(record.meta["shown"][-1].split()[1])
    assert all(len(digits) >= 6 for digits in meant.values())


@pytest.mark.parametrize("name", [naming.DIGITS, naming.COLOURS])
def test_pictures_of_a_name_are_alike_in_one_respect_and_all_pictures_in_the_other(made, name):
    for record in made[name, "test"]:
        shown = [text.split() for text in record.meta["shown"]]
        own, other = (1, 0) if name == naming.DIGITS else (0, 1)
        assert len({words[other] for words in shown}) == 1
        of_name: dict[str, set[str]] = {}
        for picture, text in examples(record):
            of_name.setdefault(text, set()).add(shown[picture][own])
        assert all(len(found) == 1 for found in of_name.values())
        assert of_name[record.answers[0]] == {shown[-1][own]}


def test_single_digits_are_captioned_in_words(made):
    for record in made[naming.SINGLE, "test"]:
        colour, digit = record.answers[0].split()
        assert colour in COLOURS
        assert digit.isdigit()
        assert record.instruction == ""


def test_documents_say_their_names_behind_words_and_behind_pictures(made):
    for record in made[naming.TEXTS, "train"]:
        assert not record.media
        words = record.parts[0].split()
        called = dict(zip(words[::2], words[1::2], strict=True))
        assert words == [word for thing in words[::2] for word in (thing, called[thing])]
    said = {word for record in made[naming.TEXTS, "train"] for word in record.parts[0].split()[1::2]}
    assert said & set(naming.UNHEARD)  # a name that is never read could not be said
    for record in made[naming.DOCUMENTS, "test"]:
        assert record.parts[::2] == tuple(range(naming.LONGEST))
        assert set(record.parts[1::2]) <= set(naming.UNHEARD)


def test_the_sets_are_prepared_where_a_run_needs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SIZES", dict.fromkeys(naming.SIZES, 4))
    monkeypatch.setattr(records, "EVALUATED", 3)
    prepare.prepare_missing(tmp_path, [naming.COLOURS, "coco_caption"])
    assert prepared.sizes(tmp_path, naming.COLOURS) == {"train": 4, "validation": 3, "test": 3}
    stored = prepared.open_set(tmp_path, naming.COLOURS, "test")[1]
    (drawn,) = naming.make(naming.COLOURS, "test", 1, 2)
    assert stored == drawn
