"""Metrics, the table, and the walk over a split; no model."""

import json

import pytest

from instructblip_jax.data.record import Record
from instructblip_jax.evals.metrics import METRICS
from instructblip_jax.evals.pairs import Prediction, reference_of
from instructblip_jax.evals.table import SetResult, as_dict, markdown, means
from instructblip_jax.evals.vqa import exact_match, tidy


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Yes.", "yes"),
        ("  top-left   red 3 , 4 ", "top-left red 3, 4"),
        ("where is it ?", "where is it?"),
        ("a\nb", "a b"),
        ("", ""),
        (".", ""),
        ("3", "3"),
        ("3.5", "3.5"),
    ],
)
def test_normalising(text, want):
    assert tidy(text) == want
    assert tidy(want) == want


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Yes", ("yes",), 1.0),
        ("red .", ("blue", "red"), 1.0),
        ("red", ("blue", "red 3"), 0.0),
        ("3", ("13",), 0.0),
        ("", ("yes",), 0.0),
        ("1 2", ("1  2",), 1.0),
        ("1 2", ("12",), 0.0),
    ],
)
def test_exact_match(prediction, answers, score):
    record = Record("s/test/0", "s", "test", "vqa", (), {}, answers)
    got = METRICS["exact_match"]([(Prediction(prediction), reference_of(record))]).value
    assert got == exact_match(prediction, answers) == score
    assert isinstance(got, float)


def test_a_record_without_answers_cannot_be_judged():
    record = Record("s/test/0", "s", "test", "vqa", (), {}, ())
    with pytest.raises(ValueError, match=r"s/test/0.*no answers"):
        METRICS["exact_match"]([(Prediction("yes"), reference_of(record))])


ROWS = {
    "a": SetResult("held_in", "exact_match", 0.5, 200, 0.25),
    "b": SetResult("held_in", "exact_match", 1.0, 10, 0.0),
    "c": SetResult("held_out", "exact_match", 0.125, 200, 0.5),
}


def test_means_are_over_sets_not_records():
    got = means(ROWS)
    assert got["held_in_mean"] == 0.75
    assert got["held_out_mean"] == 0.125
    assert got["held_out_mean_blind"] == 0.5
    assert got["held_in_mean_blind"] == 0.125


def test_what_programs_read():
    got = json.loads(json.dumps(as_dict(ROWS)))
    want = {"split": "held_in", "metric": "exact_match", "value": 0.5, "count": 200, "blind": 0.25}
    assert {name: got["sets"]["a"][name] for name in want} == want
    assert list(got["sets"]) == ["a", "b", "c"]
    assert {"held_in_mean", "held_out_mean", "held_out_mean_blind"} <= got.keys()


def test_what_people_read():
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(ROWS).splitlines()]
    assert lines[0] == ["", "set", "metric", "records", "score", "image blanked"]
    assert {len(line) for line in lines} == {6}
    assert [line[1] for line in lines[2:]] == ["a", "b", "**mean**", "c", "**mean**"]
    assert lines[2][3:] == ["200", "50.0", "25.0"]
    assert lines[4][4:] == ["**75.0**", "**12.5**"]
    assert lines[6][4:] == ["**12.5**", "**50.0**"]


def test_a_suite_of_one_kind_is_still_valid_json():
    """NaN is no JSON: many programs refuse the whole file."""
    rows = {name: row for name, row in ROWS.items() if row.split == "held_in"}

    def refuse(constant):
        raise AssertionError(f"{constant} in the JSON")

    got = json.loads(json.dumps(as_dict(rows)), parse_constant=refuse)
    assert got["held_in_mean"] == 0.75
    assert got["held_out_mean"] is None
    assert "nan" not in markdown(rows)
