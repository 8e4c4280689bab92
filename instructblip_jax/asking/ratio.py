"""Partial match of a short text in a longer one, and similarity of texts by their words."""

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

FOUND = 90.0
"""A partial ratio above this counts as found."""


def partial(one: str, other: str) -> float:
    """The best ratio, 0 to 100, of the shorter text with a substring of its length in the longer one, ignoring case; 0
    if either is empty."""
    short, long = sorted((one.strip().lower(), other.strip().lower()), key=len)
    if not short:
        return 0.0
    if short in long:
        return 100.0
    blocks = SequenceMatcher(None, short, long, autojunk=False).get_matching_blocks()
    starts = {max(0, block.b - block.a) for block in blocks}
    return max(100 * SequenceMatcher(None, short, long[at : at + len(short)], autojunk=False).ratio() for at in starts)


def found(one: str, other: str) -> bool:
    """True if `partial` is above `FOUND`."""
    return partial(one, other) > FOUND


class Likeness:
    """Cosine similarity of texts by their words, weighted by rarity (TF-IDF).

    X-InstructBLIP (arXiv 2311.18799) compares captions by a sentence encoder; this needs no other model.
    """

    def __init__(self, texts: Sequence[str]):
        counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
        held = Counter(word for words in counts for word in words)
        rarity = {word: float(np.log(len(texts) / count)) + 1.0 for word, count in held.items()}
        self._rows: list[dict[str, float]] = []
        for words in counts:
            row = {word: count * rarity[word] for word, count in words.items()}
            norm = float(np.sqrt(sum(value * value for value in row.values()))) or 1.0
            self._rows.append({word: value / norm for word, value in row.items()})

    def of(self, one: int, other: int) -> float:
        """The cosine of two of the texts, by index."""
        a, b = sorted((self._rows[one], self._rows[other]), key=len)
        return sum(value * b.get(word, 0.0) for word, value in a.items())
