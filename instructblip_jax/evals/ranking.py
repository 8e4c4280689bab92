"""Ranking metrics over scores of candidates: rank of the correct one, NDCG, best choice, ROC AUC, yes or no.

Ties are not broken at random: the rank of a candidate is 1 + the number of better ones + half the number of others
with the same score. Candidates with the same text, which tie exactly, therefore share their ranks, and giving all
candidates the same score is not rewarded.
"""

import string
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

YES, NO = ("yes", "true"), ("no", "false")
"""The words for 1 and for 0 in the paper's binary tasks."""


def _checked(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise ValueError(f"{list(scores)[:5]}: a number for each candidate is needed")
    return values


def rank(scores: Sequence[float], label: int) -> float:
    """Rank of candidate ``label``, where 1 is the best; ties give half ranks. Raises ValueError for a wrong index."""
    values = _checked(scores)
    if not 0 <= label < len(values):
        raise ValueError(f"candidate {label} of {len(values)}")
    return 1 + float((values > values[label]).sum()) + 0.5 * (int((values == values[label]).sum()) - 1)


def choice(scores: Sequence[float]) -> int:
    """Index of the best candidate; the lowest one if several tie."""
    return int(np.argmax(_checked(scores)))


def ndcg(scores: Sequence[float], relevance: Sequence[float]) -> float | None:
    """Visual Dialog's NDCG over the first k ranks, where k is the number of candidates with any relevance.

    Ties are ranked by index. None if no candidate is relevant.
    """
    values, gains = _checked(scores), np.asarray(relevance, np.float64)
    if len(values) != len(gains):
        raise ValueError(f"{len(values)} scores for {len(gains)} candidates")
    k = int((gains != 0).sum())
    if not k:
        return None
    discount = np.log2(np.arange(2, k + 2))
    found = gains[np.argsort(-values, kind="stable")[:k]]
    ideal = np.sort(gains)[::-1][:k]
    return float((found / discount).sum() / (ideal / discount).sum())


def auc(scores: npt.ArrayLike, classes: npt.ArrayLike) -> float | None:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties counting half.

    ``scores`` and ``classes`` (0 or 1) are [N]. None unless both classes are present. Raises ValueError for a nan
    score or another class.
    """
    return _area(np.asarray(scores, np.float64), np.asarray(classes), np.ones((1, np.size(scores))))[0]


def auc_resampled(scores: npt.ArrayLike, classes: npt.ArrayLike, weights: np.ndarray) -> np.ndarray:
    """AUC with the examples counted ``weights`` [B, N] times: float64 [B], nan where a class is missing."""
    areas = _area(np.asarray(scores, np.float64), np.asarray(classes), weights)
    return np.array([np.nan if area is None else area for area in areas])


def _area(scores: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> list[float | None]:
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    if not np.isin(classes, (0, 1)).all():
        raise ValueError(f"classes must be 0 or 1, not {sorted(set(classes.tolist()) - {0, 1})[:3]}")
    if not scores.size:
        return [None] * len(weights)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    new = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # starts of runs of equal scores
    weights = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(weights * classes[order], new, axis=1)
    negative = np.add.reduceat(weights * (1 - classes[order]), new, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    area = (positive * (below + negative / 2)).sum(1)
    pairs = positive.sum(1) * negative.sum(1)
    return [float(a / p) if p else None for a, p in zip(area, pairs, strict=True)]


def verbalised(text: str) -> int | None:
    """1 for an answer that begins with yes or true, 0 for no or false, else None; ignores case and punctuation."""
    words = text.lower().split()
    first = words[0].strip(string.punctuation) if words else ""
    return 1 if first in YES else 0 if first in NO else None


def log_odds(scores: Sequence[float], candidates: Sequence[str]) -> float:
    """ln P(positive) − ln P(negative), from the log-likelihoods of verbalisers; a class may have several.

    Raises ValueError unless every candidate is yes, true, no or false, and both classes are present.
    """
    values, sides = _checked(scores), [verbalised(candidate) for candidate in candidates]
    if len(values) != len(sides) or set(sides) != {0, 1}:
        raise ValueError(f"{len(values)} scores for the verbalisers {', '.join(candidates)}")
    positive = np.array(sides) == 1
    return float(np.logaddexp.reduce(values[positive]) - np.logaddexp.reduce(values[~positive]))
