"""Metrics: prediction and acceptable answers -> a score in 0..1. No model inside."""

from collections.abc import Callable, Sequence


def normalise(text: str) -> str:
    """Lower case, single spaces, no space before punctuation, no full stop at the end."""
    words = " ".join(text.lower().split())
    for mark in ",.?!:;":
        words = words.replace(f" {mark}", mark)
    return words.removesuffix(".").strip()


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers, else 0."""
    return float(normalise(prediction) in {normalise(answer) for answer in answers})


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {"exact_match": exact_match}
METRIC_OF: dict[str, str] = {}
"""Set -> metric, where it is not exact match."""
