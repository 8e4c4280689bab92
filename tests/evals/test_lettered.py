"""ScienceQA's official rule for the option that a text chooses, and its table of results, by hand."""

import pytest

from instructblip_jax.evals.lettered import chosen
from instructblip_jax.evals.metrics import METRICS, as_dict
from instructblip_jax.evals.pairs import Prediction, Reference
from instructblip_jax.evals.table import SetResult, by_class


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("B", 1),
        (" B\n", 1),
        ("b", None),
        ("D", None),  # beyond the three options
        ("F", None),  # no mark of an option
        ("B. a cork", 1),
        ("B. The answer is A.", 1),  # the beginning comes first
        ("B.", None),
        ("B) a cork", None),
        ("D. a leaf. The answer is A.", None),
        ("F. is the note. The answer is A.", 0),
        ("The answer is C.", 2),
        ("The answer is C. BECAUSE: stones sink.", 2),
        ("Stones sink.\\nThey are dense. The answer is A.", 0),
        ("The answer is A. No. The answer is A.", None),  # twice, though the same
        ("The answer is A. The answer is B.", None),
        ("The answer is A", None),  # a character must follow the letter
        ("The answer is A!", 0),  # any
        ("The answer is A\nand", None),  # but a line end
        ("The answer is Apple.", 0),
        ("the answer is A.", None),
        ("The answer is D.", None),
        ("Answer: B", None),
        ("a stone", None),
        ("", None),
        ("   ", None),
    ],
)
def test_the_option_that_a_text_chooses(text, want):
    assert chosen(text, 3) == want


def problem(label, *classes):
    return Reference("r", ("The answer",), ("x", "y", "z"), label, groups={"classes": classes})


PAIRS = [
    (Prediction("The answer is A."), problem(0, "NAT", "TXT", "IMG", "G1-6")),
    (Prediction("B"), problem(1, "NAT", "TXT", "G7-12")),
    (Prediction("A. x"), problem(2, "SOC", "NO", "G1-6")),
    (Prediction("stones sink"), problem(0, "NAT", "IMG", "G1-6")),
    (None, problem(0, "SOC", "TXT", "G7-12")),
]


def test_scores_by_class():
    got = as_dict("scienceqa", PAIRS)
    assert (got["value"], got["count"], got["missing"]) == (0.4, 5, 1)
    assert got["details"]["no_letter"] == 0.25
    assert list(got["details"]["classes"].items()) == [
        ("NAT", {"value": pytest.approx(2 / 3), "count": 3}),
        ("SOC", {"value": 0.0, "count": 2}),
        ("TXT", {"value": pytest.approx(2 / 3), "count": 3}),
        ("IMG", {"value": 0.5, "count": 2}),
        ("NO", {"value": 0.0, "count": 1}),
        ("G1-6", {"value": pytest.approx(1 / 3), "count": 3}),
        ("G7-12", {"value": 0.5, "count": 2}),
    ]
    assert METRICS["scienceqa"](PAIRS).scores.tolist() == [1, 1, 0, 0, 0]


def test_the_releases_own_table():
    details = as_dict("scienceqa", PAIRS)["details"]
    other = SetResult("held_in", "accuracy", 0.5, 4, details={"classes": {"cat": {"value": 1.0, "count": 4}}})
    rows = {"scienceqa_qcm_lea": SetResult("held_in", "scienceqa", 0.4, 5, details=details), "own": other}
    head, _, line = [[cell.strip() for cell in line.split("|")[1:-1]] for line in by_class(rows).splitlines()]
    assert head == ["", "NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg"]
    assert line == ["scienceqa_qcm_lea", "66.67", "0.00", "", "66.67", "50.00", "0.00", "33.33", "50.00", "40.00"]
    assert by_class({"own": other}) == ""
