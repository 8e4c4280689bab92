"""Templates over a record's slots, and what a template that does not fit gets."""

import dataclasses

import numpy as np
import pytest

from instructblip_jax.data.record import Record
from instructblip_jax.data.templates import at_turn, check, fields, instruction
from instructblip_jax.data.visits import drawn
from instructblip_jax.run.open_data import TEMPLATE_SETS

RECORD = Record("shapes/train/0", "shapes", "train", "vqa", (), {"place": "top {left}", "what": "disc"}, ("yes",))


@pytest.mark.parametrize(
    ("template", "want"),
    [
        ("no field", set()),
        ("", set()),
        ("{place} of {what}, {place}", {"place", "what"}),
        ("literal {{place}}", set()),
        ("{what:>10} {place!r}", {"what", "place"}),
    ],
)
def test_the_fields_of_a_template(template, want):
    assert fields(template) == want


def test_slots_are_put_in_as_they_are():
    templates = {"shapes": ["is there a {what} at {place} ?", "{{{what}}}"]}
    check(templates, RECORD)
    assert instruction(templates, RECORD, 0) == "is there a disc at top {left} ?"
    assert instruction(templates, RECORD, 1) == "{disc}"
    assert instruction(templates, RECORD, 2) == instruction(templates, RECORD, 0)
    assert instruction(templates, RECORD, 10**9 + 1) == "{disc}"


def test_the_front_of_an_answer_is_read_and_the_rest_is_written():
    templates = {"task:vqa": ("so far: {front}",)}
    record = dataclasses.replace(RECORD, answers=("a red disc", "disc"))
    check(templates, record)
    rng = np.random.default_rng(0)
    found = {drawn(record, rng, templates) for _ in range(40)}
    assert found == {("so far: ", "disc"), ("so far: a", "red disc"), ("so far: a red", "disc")}
    own = dataclasses.replace(record, instruction="what ?")
    assert {drawn(own, rng, templates)[1] for _ in range(20)} == {"a red disc", "disc"}
    assert TEMPLATE_SETS["captions"]["task:caption"] == ("",)


def test_a_record_with_an_instruction_needs_no_template():
    record = dataclasses.replace(RECORD, instruction="read {this}")
    check({}, record)
    check({"shapes": ["{broken"]}, record)
    assert instruction({}, record, 3) == "read {this}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("where is the {colour} ?", ["colour", "place, what"]),
        ("{plcae} and {waht}", ["plcae, waht", "place, what"]),
        ("{}", ["place, what"]),
        ("{0}", ["0", "place, what"]),
        ("{place.x}", ["place.x"]),
        ("{what[0]}", ["what[0]"]),
        ("{what", ["malformed"]),
        ("what}", ["malformed"]),
        ("{what!x}", ["what!x"]),
        ("{what:d}", ["what:d"]),
        ("{what:{width}}", ["width"]),
    ],
)
def test_a_wrong_template_is_one_error_naming_set_template_field_and_slots(template, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check({"shapes": ["{what}", template]}, RECORD)
    message = str(caught.value)
    for word in ["'shapes'", repr(template), *words]:
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize("templates", [{}, {"shapes": []}, {"others": ["{what}"]}])
def test_a_set_without_templates_is_named(templates):
    with pytest.raises(ValueError, match="'shapes': no instruction templates"):
        check(templates, RECORD)


def test_a_record_that_lacks_a_slot_is_named():
    """Only the first record of a set is checked before; any other says it when it is asked."""
    record = Record("own/test/3", "own", "test", "vqa", (), {"what": "digit"}, ("1",))
    with pytest.raises(ValueError, match=r"own/test/3: template .* has the field question; .* record: what"):
        instruction({"own": ("{question}",)}, record, 0)
    bare = Record("own/test/4", "own", "test", "vqa", (), {}, ("1",))
    with pytest.raises(ValueError, match="slots of this record: none"):
        instruction({"own": ("{question}",)}, bare, 0)


def test_a_turn_is_judged_by_its_own_answer_alone():
    turns = (("what ?", "a disc"), ("where ?", "above"))
    record = dataclasses.replace(RECORD, turns=turns, answers=(), references=("a disc", "above"), weights=(0.5, 0.5))
    second = at_turn(record, 1)
    assert (second.answers, second.references, second.weights, second.turns) == (("above",), (), (), ())
    assert second.slots["history"] == "Question: what ? Answer: a disc\n"
    assert second.slots["question"] == "where ?"
