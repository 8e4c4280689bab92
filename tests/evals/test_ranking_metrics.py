"""Ranks, NDCG, choices, AUC and yes or no; AUC against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from instructblip_jax.evals.ranking import auc, auc_resampled, choice, log_odds, ndcg, rank, verbalised


@pytest.mark.parametrize(
    ("scores", "label", "want"),
    [
        ([0.1, 0.9, 0.5], 1, 1),
        ([0.1, 0.9, 0.5], 0, 3),
        ([0.5, 0.9, 0.5], 0, 2.5),
        ([0.0] * 100, 7, 50.5),
        ([-math.inf, -3.0], 0, 2),
        ([1.0], 0, 1),
    ],
)
def test_ranks_and_their_ties(scores, label, want):
    assert rank(scores, label) == want


def test_a_rank_needs_numbers_and_a_candidate():
    with pytest.raises(ValueError, match="candidate 2 of 2"):
        rank([0.1, 0.2], 2)
    for scores in ([], [0.1, math.nan]):
        with pytest.raises(ValueError, match="a number for each candidate"):
            rank(scores, 0)


def test_the_lowest_of_the_best_is_chosen():
    assert choice([0.1, 0.7, 0.7]) == 1
    assert choice([0.2, 0.2]) == 0


def test_ndcg():
    relevance = [0.0, 0.5, 1.0, 0.0]
    assert ndcg([1, 2, 3, 0], relevance) == pytest.approx(1.0)
    # Two are relevant, so two places count: the second of them holds nothing.
    ideal = 1 + 0.5 / math.log2(3)
    assert ndcg([3, 0, 4, 1], relevance) == pytest.approx(1 / ideal)
    assert ndcg([4, 1, 3, 0], relevance) == pytest.approx(1 / math.log2(3) / ideal)
    assert ndcg([0, 0, 0, 0], relevance) == pytest.approx(0.5 / math.log2(3) / ideal)  # ties: the lower number first
    assert ndcg([1, 2], [0, 0]) is None
    with pytest.raises(ValueError, match="2 scores for 3"):
        ndcg([1, 2], [0, 0, 1])


def test_ndcg_against_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(50):
        relevance = rng.choice([0, 0, 0.4, 1.0], 20)
        relevance[0] = 1
        scores = rng.permutation(20)
        want = ndcg_score([relevance], [scores], k=int((relevance != 0).sum()))
        assert ndcg(scores, relevance) == pytest.approx(want)


def test_auc_against_scikit_learn_with_ties():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(200):
        count = int(rng.integers(2, 60))
        labels = np.append([0, 1], rng.integers(0, 2, count - 2))
        scores = rng.integers(0, int(rng.integers(1, 20)), count) / 7
        assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        seen.add(auc(scores, labels))
    assert len(seen) > 50


def test_auc():
    assert auc([0.9, 0.8, 0.8, 0.1, 0.3], [1, 0, 1, 0, 1]) == 0.75
    assert auc([math.inf, math.inf, -math.inf], [1, 0, 0]) == 0.75
    assert auc([1, 2], [1, 1]) is None
    assert auc([], []) is None
    with pytest.raises(ValueError, match="classes must be 0 or 1"):
        auc([1, 2], [1, 2])
    with pytest.raises(ValueError, match="not a number"):
        auc([1, math.nan], [1, 0])


def test_auc_of_resampled_examples_is_that_of_the_examples_repeated():
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 6, 30), rng.integers(0, 2, 30)
    weights = rng.integers(0, 4, (20, 30))
    got = auc_resampled(scores, labels, weights)
    for n, weight in enumerate(weights):
        assert got[n] == pytest.approx(roc_auc_score(np.repeat(labels, weight), np.repeat(scores, weight)))
    assert np.isnan(auc_resampled(scores, labels, labels[None])).all()


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Yes", 1),
        ("true.", 1),
        ("yes, it is", 1),
        (" No ", 0),
        ("False", 0),
        ("not", None),
        ("it is, yes", None),
        ("", None),
    ],
)
def test_yes_or_no(text, want):
    assert verbalised(text) == want


def test_verbalisers_of_a_class_add_up():
    scores = np.log([0.3, 0.2, 0.1, 0.05])
    assert log_odds(scores, ["yes", "no", "True", "false"]) == pytest.approx(math.log(0.4 / 0.25))
    for candidates in (["yes", "true"], ["yes", "maybe"], ["yes", "no", "no"]):
        with pytest.raises(ValueError, match="verbalisers"):
            log_odds([1.0, 2.0], candidates)
