"""The n-grams of many sentences at once, as arrays: what the caption metrics count."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grams:
    """The n-grams of one order, one row for each that a sentence has.

    ``sentence``, ``gram`` [E] int64: whose, and which one (a number below ``kinds``), ascending in both; ``count`` [E]
    float64: how often it is there.
    """

    sentence: np.ndarray
    gram: np.ndarray
    count: np.ndarray
    kinds: int


def grams(sentences: Sequence[Sequence[str]], order: int = 4) -> Iterator[Grams]:
    """1-grams, 2-grams … of all sentences; an n-gram has one number in all of them."""
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    sentence = np.repeat(np.arange(len(sentences)), lengths)
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for word in chain.from_iterable(sentences)], np.int64)
    at, kinds = words, len(numbers)  # at[i]: the n-gram that begins at the i-th word, of whichever sentence
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
