"""Recall of image-text retrieval, from the ranks of an image's texts and of a text's image. No jax.

A line describes one image: its "uid", and the ranks, counted from 0, in "image_to_text" (of its best text among all
texts) and in "text_to_image" (of the image, for each of its texts), each [by similarity, re-ranked].
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from instructblip_jax.evals import bootstrap
from instructblip_jax.evals.table import RECALLS, SetResult

METRIC = "recall"
AT = (1, 5, 10)


def order(scores: np.ndarray) -> np.ndarray:
    """Scores [N] -> the candidates' indices, the highest score first; ties keep their order."""
    return np.argsort(-scores, kind="stable")


def ranks(scores: np.ndarray) -> np.ndarray:
    """Scores [N] -> int [N]: the rank of each candidate, 0 for the highest score; ties keep their order."""
    places = np.empty(len(scores), np.int64)
    places[order(scores)] = np.arange(len(scores))
    return places


def recalls(lines: Sequence[Mapping[str, Any]], way: int) -> dict[str, float]:
    """`RECALLS` of the parsed lines, 0 to 1: by similarity only (``way`` 0), or re-ranked (1)."""
    to_text = np.array([line["image_to_text"][way] for line in lines])
    to_image = np.array([one[way] for line in lines for one in line["text_to_image"]])
    return dict(zip(RECALLS, [float((x < k).mean()) for x in (to_text, to_image) for k in AT], strict=True))


def result(
    half: str, split: str, lines: Sequence[Mapping[str, Any]], paper: float | None, notes: Sequence[str]
) -> SetResult:
    """The result of a set: the mean of the six recalls, after re-ranking if there was any, with its bootstrap interval
    over the images. "details" has the recalls themselves, and those by similarity only."""
    last = len(lines[0]["image_to_text"]) - 1
    found = [recalls(lines, way) for way in range(last + 1)]
    texts = sum(len(line["text_to_image"]) for line in lines)
    details: dict[str, Any] = {
        "by_similarity": found[0],
        **({"recalls": found[1]} if last else {}),
        "texts": texts,
        "chance": _chance(len(lines), texts),
        "notes": [*notes, f"recall among {len(lines):,} pictures and {texts:,} texts; "
                  f"by chance it would be {100 * _chance(len(lines), texts):.1f}"],
    }  # fmt: skip
    return SetResult(
        half,
        METRIC,
        float(np.mean(list(found[last].values()))),
        len(lines),
        interval=bootstrap.interval(partial(weighted, lines, last), len(lines)),
        paper=None if paper is None else paper / 100,
        data_split=split,
        details=details,
    )


def _chance(pictures: int, texts: int) -> float:
    """The mean of the six recalls of a random order if every image has the same number of texts."""
    each = texts / pictures
    to_text = [1 - np.prod([max(0.0, 1 - each / (texts - n)) for n in range(min(k, texts))]) for k in AT]
    return float(np.mean([*to_text, *(min(1.0, k / pictures) for k in AT)]))


def weighted(lines: Sequence[Mapping[str, Any]], way: int, weights: np.ndarray) -> np.ndarray:
    """Weights [R, B] of the images -> the mean of the six recalls of each resample, [R]."""
    to_text = np.array([line["image_to_text"][way] for line in lines])
    counts = np.array([len(line["text_to_image"]) for line in lines])
    own = [np.array([one[way] for one in line["text_to_image"]]) for line in lines]
    total = np.zeros(len(weights))
    for k in AT:
        total += weights @ (to_text < k) / weights.sum(axis=1)
        total += weights @ np.array([(places < k).sum() for places in own]) / (weights @ counts)
    return total / (2 * len(AT))
