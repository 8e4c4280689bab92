"""Counts the n-grams of many sentences at once, as arrays, for the caption metrics."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grams:
    """The n-grams of one order: one row per distinct n-gram of a sentence, E in all, sorted by sentence and n-gram.

    Attributes:
      sentence: index of the sentence, int64 [E].
      gram: id of the n-gram, below ``kinds``, int64 [E].
      count: occurrences of the n-gram in the sentence, float64 [E].
      kinds: number of distinct n-grams in all sentences.
    """

    sentence: np.ndarray
    gram: np.ndarray
    count: np.ndarray
    kinds: int


def grams(sentences: Sequence[Sequence[str]], order: int = 4) -> Iterator[Grams]:
    """The n-grams of all sentences for n from 1 to ``order``; an n-gram has the same id in every sentence."""
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    sentence = np.repeat(np.arange(len(sentences)), lengths)
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for word in chain.from_iterable(sentences)], np.int64)
    at, kinds = words, len(numbers)  # at[i]: id of the n-gram that begins at word i of all words; -1 for none
    for n in range(1, order + 1):
        if n > 1:
            inside = sentence[: len(at) - 1] == sentence[n - 1 :]
            pairs = at[:-1] * len(numbers) + words[n - 1 :]
            at = np.full(len(pairs), -1)
            distinct, at[inside] = np.unique(pairs[inside], return_inverse=True)
            kinds = len(distinct)
        begins = at >= 0
        keys, counts = np.unique(sentence[: len(at)][begins] * max(kinds, 1) + at[begins], return_counts=True)
        yield Grams(keys // max(kinds, 1), keys % max(kinds, 1), counts.astype(np.float64), kinds)
