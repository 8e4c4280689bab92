"""Scores of candidates: the rank of the true one and what is made of it, NDCG, choices, ROC AUC, yes or no.

A tie is no luck: a candidate's rank is 1 + how many are better + half of how many others are as good. So candidates
with the same text, which tie exactly, share the ranks they take up, and giving all the same score is not rewarded.
"""

import string
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

YES, NO = ("yes", "true"), ("no", "false")
"""What says 1 and what says 0, in the binary tasks of the paper."""


def _checked(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise ValueError(f"{list(scores)[:5]}: a number for each candidate is needed")
    return values


def rank(scores: Sequence[float], label: int) -> float:
    """Rank of candidate ``label``, 1 the best; with half ranks where it ties."""
    values = _checked(scores)
    if not 0 <= label < len(values):
        raise ValueError(f"candidate {label} of {len(values)}")
    return 1 + float((values > values[label]).sum()) + 0.5 * (int((values == values[label]).sum()) - 1)


def choice(scores: Sequence[float]) -> int:
    """The number of the best candidate; of several the lowest."""
    return int(np.argmax(_checked(scores)))


def ndcg(scores: Sequence[float], relevance: Sequence[float]) -> float | None:
    """Visual Dialog's NDCG: gains over the first k of the ranking, k being how many candidates are relevant at all.

    Ties in the ranking go to the lower number. None where nothing is relevant.
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


def auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Area under the ROC curve: how often a positive is above a negative, ties half. None without both classes."""
    return _area(np.asarray(scores, np.float64), np.asarray(labels), np.ones((1, np.size(scores))))[0]


def auc_resampled(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: np.ndarray) -> np.ndarray:
    """AUC with the examples counted ``weights`` [B, N] times -> [B] float64, nan where a class is missing."""
    areas = _area(np.asarray(scores, np.float64), np.asarray(labels), weights)
    return np.array([np.nan if area is None else area for area in areas])


def _area(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> list[float | None]:
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels are 0 and 1, not {sorted(set(labels.tolist()) - {0, 1})[:3]}")
    if not scores.size:
        return [None] * len(weights)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    new = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # where a run of equal scores begins
    weights = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(weights * labels[order], new, axis=1)
    negative = np.add.reduceat(weights * (1 - labels[order]), new, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    area = (positive * (below + negative / 2)).sum(1)
    pairs = positive.sum(1) * negative.sum(1)
    return [float(a / p) if p else None for a, p in zip(area, pairs, strict=True)]


def verbalised(text: str) -> int | None:
    """1 or 0 for an answer that begins with yes or true, no or false, in any letters and before any mark; else None."""
    words = text.lower().split()
    first = words[0].strip(string.punctuation) if words else ""
    return 1 if first in YES else 0 if first in NO else None


def log_odds(scores: Sequence[float], candidates: Sequence[str]) -> float:
    """Log-likelihoods of verbalisers, several a class -> ln P(positive) − ln P(negative).

    Raises ValueError unless every candidate is yes, true, no or false and both classes are there.
    """
    values, sides = _checked(scores), [verbalised(candidate) for candidate in candidates]
    if len(values) != len(sides) or set(sides) != {0, 1}:
        raise ValueError(f"{len(values)} scores for the verbalisers {', '.join(candidates)}")
    positive = np.array(sides) == 1
    return float(np.logaddexp.reduce(values[positive]) - np.logaddexp.reduce(values[~positive]))
