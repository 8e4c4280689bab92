"""Percentile bootstrap intervals: the range in which a score would lie for other examples of the same kind."""

from collections.abc import Callable, Sequence

import numpy as np

SAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 1 << 22
"""Maximum size of the arrays of drawn numbers."""


def _between(values: np.ndarray, level: float) -> tuple[float, float] | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(
    scores: np.ndarray, *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[float, float] | None:
    """The bootstrap interval of the mean of per-example scores [N]; None if there are none.

    The mean depends only on how often each distinct score is drawn, which is multinomial. For right or wrong answers
    that takes two numbers per sample instead of N.
    """
    if not len(scores):
        return None
    rng = np.random.default_rng(seed)
    values, counts = np.unique(scores, return_counts=True)
    means = []
    for size in _sizes(samples, len(values)):
        drawn = rng.multinomial(len(scores), counts / len(scores), size)
        means.append(drawn @ values / len(scores))
    return _between(np.concatenate(means), level)


def interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    count: int,
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The bootstrap interval of a score of the whole set; None if there are no examples.

    ``statistic`` maps weights [B, count], the number of times that each example is counted, to scores [B]. Samples for
    which the score is undefined (nan) are ignored.
    """
    if not count:
        return None
    return _between(_drawn(statistic, count, samples, np.random.default_rng(seed)), level)


def _drawn(
    statistic: Callable[[np.ndarray], np.ndarray], count: int, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """The scores [samples] of resampled examples."""
    values = []
    for size in _sizes(samples, count):
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        values.append(np.asarray(statistic(weights), np.float64))
    return np.concatenate(values)


Runs = tuple[Sequence[Callable[[np.ndarray], np.ndarray]], int]
"""Several runs over the same questions: the statistic of each run, weights [B, count] -> scores [B]; and the count."""


def mean_of_runs(
    statistics: Sequence[Callable[[np.ndarray], np.ndarray]],
    count: int,
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The interval of the mean score of several runs over the same questions, for example with different examples in
    the prompt. Runs and questions are both resampled; a resampled question keeps its answers of all resampled runs.

    ``statistics``: for each run, weights [B, count] -> scores [B], as in `interval`.
    """
    return mean_of_sets([(statistics, count)], samples=samples, level=level, seed=seed)


def mean_of_sets(
    sets: Sequence[Runs], *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[float, float] | None:
    """The interval of the mean over several sets, each scored as in `mean_of_runs`. A resampled run counts in all sets;
    the questions of each set are resampled independently. None if a set has no questions, or there is no set.

    Raises ValueError if the sets have different numbers of runs.
    """
    if not sets or not all(count for _, count in sets):
        return None
    runs = len(sets[0][0])
    if any(len(statistics) != runs for statistics, _ in sets):
        raise ValueError("every set needs a score of every run")
    times = np.random.default_rng((seed, 1)).multinomial(runs, np.full(runs, 1 / runs), samples)
    total = np.zeros(samples)
    for number, (statistics, count) in enumerate(sets):
        total += _mean_of_drawn_runs(
            statistics, count, times / runs, np.random.default_rng(seed if number == 0 else (seed, number + 1))
        )
    return _between(total / len(sets), level)


def _mean_of_drawn_runs(
    statistics: Sequence[Callable[[np.ndarray], np.ndarray]], count: int, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Scores [samples] of resampled questions, in the mean of the runs by their ``shares`` [samples, runs]."""
    drawn = iter(shares)

    def mean(weights: np.ndarray) -> np.ndarray:
        own = np.stack([next(drawn) for _ in weights])  # [B, runs]
        return (own * np.stack([statistic(weights) for statistic in statistics], axis=1)).sum(axis=1)

    return _drawn(mean, count, len(shares), rng)


def _sizes(samples: int, width: int) -> list[int]:
    """Batch sizes that add up to ``samples``, each of at most `_AT_ONCE` numbers of the given ``width`` per sample."""
    most = max(1, _AT_ONCE // width)
    return [min(most, samples - done) for done in range(0, samples, most)]
