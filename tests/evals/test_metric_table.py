"""The table of metrics: values of a set, of missing predictions, and by group."""

import json
import math

import numpy as np
import pytest

from instructblip_jax.data.record import Record
from instructblip_jax.evals import sides
from instructblip_jax.evals.metrics import METRICS, as_dict
from instructblip_jax.evals.pairs import Prediction, Reference, reference_of


def example(text=None, answers=(), scores=(), **reference):
    return Prediction(text, scores), Reference("r", answers, **reference)


def test_the_names_that_the_docs_promise():
    promised = (
        "vqa_accuracy vqa_accuracy_lavis vqa_accuracy_evalai cider bleu1 bleu2 bleu3 bleu4 rouge_l exact_match gqa"
    )
    promised += " mrr auc accuracy yes_no aokvqa_da ivqa top1 scienceqa nlvr2 named_class which_side three_votes"
    assert sorted(METRICS) == sorted(promised.split())


def test_consistency_counts_the_groups_in_which_all_is_right():
    both = {"candidates": ("False", "True"), "label": 1}
    right, wrong = (example(scores=x, **both, group="a") for x in ((0.0, 1.0), (1.0, 0.0)))
    other, lone = (example(scores=(0.0, 1.0), **both, group=group) for group in ("b", ""))
    found = METRICS["nlvr2"]([right, wrong, other, lone])
    assert (found.value, found.details) == (0.75, {"consistency": 0.5})


CLASSES = ("dog", "cat", "vacuum cleaner", "vacuum")


PAIRS = {
    "vqa_accuracy": (example("2", ("2",) * 9 + ("3",)), 1.0, example("2", ("2", "3"))),
    "vqa_accuracy_lavis": (example("Yes", ("yes",) * 10), 1.0, example("x", ("yes",) * 10)),
    "vqa_accuracy_evalai": (example("Two.", ("2",) * 10), 1.0, example("x", ("2",) * 10)),
    "exact_match": (example("Red .", ("blue", "red")), 1.0, example("x", ("red",))),
    "gqa": (example("The Dog", ("dog",)), 1.0, example("x", ("dog",))),
    "top1": (example(scores=(1.0, 2.0), answers=("b",), candidates=("a", "b")), 1.0, example("B", ("b",))),
    "aokvqa_da": (example("b", ("b", "b", "c")), 2 / 3, example("x", ("b",))),
    "ivqa": (example("B ", ("b", "c")), 0.5, example("x", ("b",))),
    "accuracy": (
        example(scores=(1.0, 2.0), candidates=("a", "b"), label=1),
        1.0,
        example("b", candidates=("a", "b"), label=0),
    ),
    "yes_no": (example("True, it is", label=1), 1.0, example("maybe", ("no",))),
    "mrr": (example(scores=(1.0, 2.0, 3.0), label=1), 0.5, example(scores=(1.0, 1.0), label=1)),
    "rouge_l": (example("a dog", ("a dog", "cat")), 1.0, example("x", ("b",))),
    "scienceqa": (
        example("The answer is B.", candidates=("a", "b"), label=1),
        1.0,
        example(scores=(1.0, 2.0), candidates=("a", "b"), label=0),
    ),
    "named_class": (example("a cat", candidates=CLASSES, label=1), 1.0, example("a cat", candidates=CLASSES, label=0)),
    "which_side": (example("The second.", label=1), 1.0, example("neither", label=0)),
    "three_votes": (example("Bell", ("bell", "bell", "bell")), 2 / 3, example("x", ("y", "y", "z"))),
}


SECOND = {"vqa_accuracy": (0 + 1 / 3) / 2, "mrr": 1 / 1.5}
"""Scores of the second pair that are not 0: an answer out of two that differ, and two ranks shared."""


@pytest.mark.parametrize("name", PAIRS)
def test_a_value_is_the_mean_of_its_scores(name):
    """And a missing prediction counts as nothing."""
    first, want, second = PAIRS[name]
    result = METRICS[name]([first, second, (None, first[1])])
    assert result.scores[0] == pytest.approx(want)
    assert result.scores[1] == pytest.approx(SECOND.get(name, 0))
    assert result.scores[2] == 0
    assert result.value == pytest.approx(result.scores.mean())
    assert result.count == 3
    low, high = result.interval()
    assert 0 <= low <= result.value <= high <= 1


def test_classes_of_two_words_are_found():
    """The published rule, which cuts answers at blanks, never finds them."""
    texts = ("A Vacuum-Cleaner hums", "two cats and a dog", "a hotdog", "vacuumcleaner, then a dog", "a dog")
    pairs = [example(text, candidates=CLASSES, label=label) for text, label in zip(texts, (2, 1, 0, 2, 0), strict=True)]
    found = METRICS["named_class"](pairs)
    assert found.scores.tolist() == [1, 1, 0, 1, 1]
    assert found.details == {"word_by_word": pytest.approx(1 / 5), "names_none": pytest.approx(1 / 5)}


@pytest.mark.parametrize(
    ("text", "side", "published"),
    [
        ("the first one", 0, "0"),
        ("The second one.", 1, "01"),
        ("(a)", 0, ""),
        ("a", 0, ""),
        ("Object A", 0, ""),
        ("(b)", 1, "1"),
        ("b", 1, "1"),
        ("right", 1, "1"),
        ("1", 0, "0"),
        ("a video", 1, "1"),
        ("the audio", 0, "0"),
        ("first or second", None, "01"),
        ("a dog", None, ""),
        ("", None, ""),
    ],
)
def test_the_side_that_an_answer_names(text, side, published):
    """``published``: the sides for which the published rule counts it."""
    assert sides.chosen(text) == side
    assert "".join(str(n) for n in (0, 1) if sides.as_published(text, n)) == published


def test_sides_in_both_orders():
    rows = [("first", 0, "as listed"), ("first", 1, "media exchanged"), ("dunno", 1, "as listed")]
    pairs = [example(text, label=label, groups={"domain": order}) for text, label, order in rows]
    found = as_dict("which_side", pairs)
    assert found["value"] == pytest.approx(1 / 3)
    assert found["details"]["names_neither"] == pytest.approx(1 / 3)
    assert found["details"]["domain"]["as listed"]["value"] == 0.5
    assert found["details"]["domain"]["media exchanged"]["value"] == 0.0


def test_three_votes_have_a_ceiling():
    found = METRICS["three_votes"]([example("bell", ("bell",) * 3), example("no", ("no", "yes", "yes"))])
    assert found.value == pytest.approx((2 / 3 + 2 / 9) / 2)
    assert found.details["ceiling"] == pytest.approx((2 / 3 + 4 / 9) / 2)
    assert (found.details["any_vote"], found.details["each_vote"]) == (1.0, pytest.approx(2 / 3))


CAPTIONS = [
    example(
        "a red kite over the wall",
        ("a red kite over a wall", "the kite flies over the old wall", "red kite above stone wall"),
    ),
    example(
        "two blue cups on a wooden table",
        ("two cups on a table", "a table with two blue cups", "cups are on the table"),
    ),
    example("a dog", ("a boat near the pier", "the small boat lies at the pier", "boat by a wooden pier")),
]


def test_captions():
    assert METRICS["cider"](CAPTIONS).value == pytest.approx(2.0666639395)
    assert METRICS["bleu4"](CAPTIONS).value == pytest.approx(0.3830135496)
    assert (
        METRICS["bleu2"](CAPTIONS).value == METRICS["bleu4"](CAPTIONS).details["bleu2"] == pytest.approx(0.6652340739)
    )
    assert METRICS["rouge_l"](CAPTIONS).value == pytest.approx(0.6525685514)
    silent = [*CAPTIONS[:2], (None, CAPTIONS[2][1])]
    assert METRICS["cider"](silent).value == pytest.approx(2.0666639395)  # "a dog" was worth nothing, either
    low, high = METRICS["bleu4"](CAPTIONS).interval()
    assert 0 <= low < METRICS["bleu4"](CAPTIONS).value < high <= 1


def test_auc_and_what_is_missing():
    scores, labels = [0.9, 0.8, 0.8, 0.1, 0.3], [1, 0, 1, 0, 1]
    pairs = [example(scores=(score,), label=label) for score, label in zip(scores, labels, strict=True)]
    result = METRICS["auc"](pairs)
    assert (result.value, dict(result.details)) == (0.75, {})
    low, high = result.interval()
    assert 0 <= low < 0.75 < high <= 1
    assert METRICS["auc"]([*pairs[:4], (None, pairs[4][1])]).value == pytest.approx(3.5 / 6)
    lone = METRICS["auc"]([pairs[0], pairs[2]])
    assert lone.value is None
    assert "both classes" in lone.reason
    assert lone.interval() is None


def test_auc_of_verbalisers():
    odds = [(-1.0, -2.0), (-3.0, -1.0), (-1.0, -1.5)]
    two = [example(scores=pair, label=label) for pair, label in zip(odds, (0, 1, 1), strict=True)]
    named = [
        example(scores=pair, label=ref.label, candidates=("no", "yes"))
        for pair, (_, ref) in zip(odds, two, strict=True)
    ]
    for pairs in (two, named):
        assert METRICS["auc"](pairs).value == 1.0
        assert METRICS["auc"](pairs).details["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="3 scores"):
        METRICS["auc"]([example(scores=(1.0, 2.0, 3.0), label=1)])


def test_ranks_of_a_dialogue():
    rounds = [example(scores=(3.0, 2.0, 1.0, 0.0), candidates=("a", "b", "c", "d"), label=label) for label in (0, 1)]
    result = METRICS["mrr"]([*rounds, (None, rounds[0][1])])
    assert result.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.details["recall@1"] == pytest.approx(1 / 3)
    assert result.details["recall@5"] == pytest.approx(2 / 3)
    assert result.details["mean_rank"] == pytest.approx((1 + 2 + 4) / 3)
    assert result.details["ndcg"] is None
    dense = example(scores=(3.0, 2.0), label=0, relevance=(0.0, 1.0))
    assert METRICS["mrr"]([*rounds, dense]).details["ndcg"] == pytest.approx(0.0)
    dense = example(scores=(3.0, 2.0), label=0, relevance=(0.5, 1.0))
    want = (0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3))
    assert METRICS["mrr"]([*rounds, dense]).details["ndcg"] == pytest.approx(want)


def test_a_okvqa_leaves_difficult_questions_out():
    result = METRICS["aokvqa_da"]([example("b", ("b",) * 3), example("x", ("b",), difficult=True)])
    assert (result.value, result.count, result.details["difficult_left_out"]) == (1.0, 1, 1.0)


def test_gqa_also_reports_the_other_comparison():
    result = METRICS["gqa"]([example("The dog.", ("dog",)), example("cat", ("cat",))])
    assert (result.value, result.details["letter_by_letter"]) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("name", "pair", "words"),
    [
        ("exact_match", example("x"), "no answers"),
        ("exact_match", example(scores=(1.0,), answers=("x",)), "no text"),
        ("top1", example(scores=(1.0,), answers=("x",), candidates=("x", "y")), "1 scores for 2 candidates"),
        ("accuracy", example(scores=(1.0,)), "no label"),
        ("accuracy", example("x", candidates=("x", "y"), label=2), "candidate 2 of 2"),
        ("yes_no", example("yes", ("perhaps",)), "neither"),
        ("yes_no", example("yes", label=3), "neither"),
        ("mrr", example("x", label=0), "0 scores"),
        ("scienceqa", example("A", label=0), "no candidates"),
        ("scienceqa", example("A", candidates=("x", "y"), label=2), "candidate 2 of 2"),
        ("cider", example("x"), "no answers"),
    ],
)
def test_a_missing_field_is_reported_with_its_id(name, pair, words):
    with pytest.raises(ValueError, match=f"^r: .*{words}"):
        METRICS[name]([pair])


def test_no_pairs_have_no_value():
    for name in METRICS:
        result = METRICS[name]([])
        assert (result.value, result.count, result.interval()) == (None, 0, None)


def test_by_group_and_as_json():
    first, second = (
        example("a", ("a",), groups={"answer_type": "other", "domain": "in"}),
        example("b", ("a",), groups={"domain": "in"}),
    )
    summary = as_dict("exact_match", [first, second, (None, second[1])])
    assert json.loads(json.dumps(summary)) == summary
    assert {name: summary[name] for name in ("metric", "count", "missing")} == {
        "metric": "exact_match",
        "count": 3,
        "missing": 1,
    }
    assert summary["value"] == pytest.approx(1 / 3)
    assert summary["interval"][0] <= 1 / 3 <= summary["interval"][1]
    assert summary["details"]["answer_type"] == {"other": {"value": 1.0, "count": 1}}
    assert summary["details"]["domain"] == {"in": {"value": pytest.approx(1 / 3), "count": 3}}
    assert "both classes" in as_dict("auc", [example(scores=(1.0,), label=1)])["reason"]


def test_within_a_domain_cider_is_that_of_the_domain():
    grouped = [
        (prediction, Reference("r", reference.answers, groups={"domain": domain}))
        for (prediction, reference), domain in zip(CAPTIONS, ("near", "near", "out"), strict=True)
    ]
    summary = as_dict("cider", grouped)
    assert summary["value"] == pytest.approx(2.0666639395)
    assert summary["details"]["domain"]["near"]["value"] == pytest.approx(METRICS["cider"](CAPTIONS[:2]).value)
    out = summary["details"]["domain"]["out"]
    assert (out["value"], out["count"], "one picture" in out["reason"]) == (0.0, 1, True)
    assert "reason" not in summary["details"]["domain"]["near"]
    assert "reason" not in summary


def test_cider_that_no_caption_could_raise_has_a_reason():
    perfect = example("a dog runs", ("a dog runs", "a brown dog"))
    for pairs, words in (([perfect], "one picture"), ([perfect, perfect], "references are alike")):
        summary = as_dict("cider", pairs)
        assert summary["value"] == 0
        assert words in summary["reason"]
        assert "document frequencies" in summary["reason"]
    assert "reason" not in as_dict("cider", [perfect, example("a dog runs", ("a dog runs", "a dog brown"))])
    assert "reason" not in as_dict("cider", [])


def test_what_is_read_of_a_record():
    meta = {"answer_type": "number", "domain": None, "difficult_direct_answer": True, "other": 3}
    record = Record("s/v/1", "s", "v", "vqa", (), {}, ("a", "b"), references=("a", "a", "b"), meta=meta)
    got = reference_of(record)
    assert got == Reference("s/v/1", ("a", "a", "b"), groups={"answer_type": "number"}, difficult=True)
    choice = Record("s/v/2", "s", "v", "choice", (), {}, ("b",), candidates=("a", "b"), label=1, relevance=(0.0, 1.0))
    assert reference_of(choice) == Reference("s/v/2", ("b",), ("a", "b"), 1, (0.0, 1.0))
    assert np.isfinite(METRICS["accuracy"]([(Prediction(scores=(0.0, 1.0)), reference_of(choice))]).value)
