"""Questions about one or two digits: the wording of the sets in `senses`, for digits in any modality."""

from typing import NamedTuple

import numpy as np

FRAMES = ("{}", "question : {} answer :")
WORDINGS = {
    "name": ("which digit is this ?", "what digit is it ?", "name the digit"),
    "is": ("is this a {digit} ?", "is it a {digit} ?"),
    "parity": ("is this {parity} ?", "is it {parity} ?"),
    "order": ("is this {order} than {digit} ?", "is it {order} than {digit} ?"),
    "larger": ("which of the two is {order} ?", "which one is {order} ?"),
    "same": ("do they show the same digit ?", "is it the same digit ?"),
}
"""Kind of question -> wordings. Evaluation uses the first one, with the first of `FRAMES`."""
FACTS = ("is", "parity", "order")
"""Kinds with the answers yes and no, of one digit."""
PARITIES, ORDERS, PLACES, YES_NO = ("even", "odd"), ("larger", "smaller"), ("first", "second"), ("yes", "no")


class Asked(NamedTuple):
    """A question: its text, its answer, and its digits."""

    text: str
    answer: str
    digits: tuple[int, ...]


def words() -> set[str]:
    """All words of questions and answers."""
    texts = [frame.replace("{}", text) for texts in WORDINGS.values() for text in texts for frame in FRAMES]
    found = {word for text in texts for word in text.split() if "{" not in word}
    return found | {*PARITIES, *ORDERS, *PLACES, *YES_NO, *map(str, range(10))}


def draw(kind: str, rng: np.random.Generator, *, first: bool) -> Asked:
    """A question of a kind about new digits; its answers are equally often right. ``first``: see `about`."""
    digit, other = (int(n) for n in rng.choice(10, 2, replace=False))
    if kind == "same":
        return about(kind, (digit, digit if rng.random() < 0.5 else other), rng, first=first)
    return about(kind, (digit, other) if kind == "larger" else (digit,), rng, first=first)


def about(kind: str, digits: tuple[int, ...], rng: np.random.Generator, *, first: bool) -> Asked:
    """A question of a kind about one or two given digits (different ones, for "larger"), in one of its wordings or in
    the ``first`` one. Its words do not reveal the answer."""
    digit, last = digits[0], digits[-1]
    slots = {}
    if kind == "name":
        answer = str(digit)
    elif kind == "is":
        other = (digit + int(rng.integers(1, 10))) % 10
        slots["digit"] = str(digit if rng.random() < 0.5 else other)
        answer = YES_NO[slots["digit"] != str(digit)]
    elif kind == "parity":
        said = int(rng.integers(2))
        slots["parity"] = PARITIES[said]
        answer = YES_NO[said != digit % 2]
    elif kind == "order":
        other, said = (digit + int(rng.integers(1, 10))) % 10, int(rng.integers(2))
        slots |= {"digit": str(other), "order": ORDERS[said]}
        answer = YES_NO[said != (digit < other)]
    elif kind == "larger":
        said = int(rng.integers(2))
        slots["order"] = ORDERS[said]
        answer = PLACES[said != (digit < last)]
    else:
        answer = YES_NO[digit != last]
    text, frame = WORDINGS[kind][0], FRAMES[0]
    if not first:
        text = WORDINGS[kind][int(rng.integers(len(WORDINGS[kind])))]
        frame = FRAMES[int(rng.integers(len(FRAMES)))]
    return Asked(frame.format(text.format(**slots)), answer, digits)
