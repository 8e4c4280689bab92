"""Bootstrap intervals: as wide as theory predicts, seeded, and the same by both methods."""

import numpy as np
import pytest

from instructblip_jax.evals.bootstrap import interval, mean_interval, mean_of_runs, mean_of_sets


@pytest.mark.parametrize("continuous", [False, True])
def test_the_interval_of_a_mean_is_nearly_the_normal_one(continuous):
    rng = np.random.default_rng(0)
    scores = rng.random(2000) if continuous else rng.choice([0.0, 0.3, 0.6, 1.0], 2000)
    low, high = mean_interval(scores, samples=4000)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert low == pytest.approx(scores.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.05 * half)
    narrow = mean_interval(scores, samples=4000, level=0.5)
    assert (narrow[1] - narrow[0]) / (high - low) == pytest.approx(0.6745 / 1.96, abs=0.03)


def test_both_methods_agree_and_are_seeded():
    scores = np.random.default_rng(1).random(300)
    mean = lambda weights: weights @ scores / len(scores)
    whole, parts = interval(mean, 300, samples=5000), mean_interval(scores, samples=5000)
    assert whole == pytest.approx(parts, abs=2e-3)
    assert mean_interval(scores) == mean_interval(scores)
    assert mean_interval(scores) != mean_interval(scores, seed=1)
    assert interval(mean, 300) == interval(mean, 300) != interval(mean, 300, seed=1)


def test_every_sample_is_as_large_as_the_set():
    drawn = []
    interval(lambda weights: drawn.append(weights) or weights[:, 0], 50, samples=40)
    weights = np.concatenate(drawn)
    assert weights.shape == (40, 50)
    assert (weights.sum(1) == 50).all()
    assert len(np.unique(weights, axis=0)) == 40


def test_small_sets():
    assert mean_interval(np.array([])) is None
    assert mean_interval(np.array([0.4])) == pytest.approx((0.4, 0.4))
    assert interval(lambda weights: weights[:, 0], 0) is None


def test_samples_without_a_value_do_not_count():
    halves = lambda weights: np.where(weights[:, 0] > 0, 0.5, np.nan)
    assert interval(halves, 4) == (0.5, 0.5)
    assert interval(lambda weights: np.full(len(weights), np.nan), 4) is None


def mean_of(scores):
    return lambda weights: weights @ scores / len(scores)


def test_the_mean_of_one_set_is_that_of_its_runs():
    runs = [mean_of(scores) for scores in np.random.default_rng(2).random((3, 40))]
    assert mean_of_sets([(runs, 40)]) == mean_of_runs(runs, 40)


def test_the_interval_over_sets_has_what_questions_and_runs_add():
    """Questions of different sets vary independently; a run is good or bad on all sets together."""
    rng = np.random.default_rng(3)
    scores = rng.random((4, 400))
    noise = [([mean_of(own)] * 3, 400) for own in scores]  # three equal runs: questions alone
    low, high = mean_of_sets(noise, samples=4000)
    half = 1.96 * np.sqrt(scores.var(axis=1).sum() / 400) / 4
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    shifts = (-0.2, 0.0, 0.2)
    runs = [([mean_of(np.full(50, 0.5 + shift)) for shift in shifts], 50) for _ in range(4)]
    spread = 1.96 * np.std(shifts) / np.sqrt(3)  # not smaller for four sets than for one
    low, high = mean_of_sets(runs, samples=4000)
    assert (high - low) / 2 == pytest.approx(spread, rel=0.1)


def test_sets_without_questions_and_other_numbers_of_runs():
    assert mean_of_sets([]) is None
    assert mean_of_sets([([mean_of(np.ones(3))], 3), ([mean_of(np.ones(0))], 0)]) is None
    with pytest.raises(ValueError, match="every run"):
        mean_of_sets([([mean_of(np.ones(3))], 3), ([mean_of(np.ones(3))] * 2, 3)])
