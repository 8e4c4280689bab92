"""Questions whose answer is one of two captions, by DisCRn's published procedure (X-InstructBLIP, arXiv 2311.18799):
properties of each caption, pairs of similar captions, a question with its answer, and a check."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructblip_jax.asking.ratio import Likeness, found
from instructblip_jax.asking.writer import Write

PROPERTIES = "List three properties, separated by commas, of what this describes: {caption}"
ASKED = (
    "First: a kettle whistles loudly (properties: shrill, hot, metallic). "
    "Second: a cat purrs on a sofa (properties: soft, alive, calm). "
    "Question: Which of the two is alive? Answer: second. Explanation: a cat is an animal.\n"
    "First: {captions[0]} (properties: {properties[0]}). Second: {captions[1]} (properties: {properties[1]}). "
    "Question:"
)
AGAIN = (
    "First: {captions[0]} (properties: {properties[0]}). Second: {captions[1]} (properties: {properties[1]}). "
    "Question: {question} Answer with first or second:"
)
NEAREST = 10
"""Number of the most similar candidates from which a partner is drawn."""
_TRIPLE = re.compile(
    r"\s*(?:Question:)?\s*(?P<question>[^?]*\w[^?]*\?)\s*Answer:\W*(?:the\s+)?(?P<answer>first|second)\b", re.I
)
_SHAPE = re.compile(r"\b(?:a |the )?3d (?:model|rendering|object) of (?:a |an |the )?", re.I)
SIDES = ("first", "second")


def plain(caption: str) -> str:
    """The caption without phrases such as "3D model of"."""
    return _SHAPE.sub("", caption).strip()


def partners(captions: Sequence[str], candidates: int, seed: int) -> list[tuple[int, int]]:
    """A pair for each caption, its index first: with one of the `NEAREST` most similar of ``candidates`` randomly drawn
    others. Equal captions form no pair."""
    likeness, rng = Likeness(captions), np.random.default_rng(seed)
    pairs = []
    for one, caption in enumerate(captions):
        drawn = rng.choice(len(captions), min(candidates, len(captions)), replace=False)
        others = [int(n) for n in drawn if captions[n] != caption]
        others.sort(key=lambda n: (-likeness.of(one, n), n))
        if others:
            pairs.append((one, others[int(rng.integers(min(NEAREST, len(others))))]))
    return pairs


def properties(write: Write, captions: Sequence[str]) -> list[str]:
    """Three properties of each caption, in one text."""
    return write([PROPERTIES.format(caption=caption) for caption in captions])


def rows(write: Write, told: Sequence[tuple[tuple[str, str], tuple[str, str]]]) -> list[dict[str, Any]]:
    """Rows generated from the pairs ((caption, caption), (properties, properties)): "question", "label" (0: the first)
    and "correct" (the model finds the answer again); an empty object if there was no question with an answer."""
    fields = [{"captions": captions, "properties": own} for captions, own in told]
    matches = [_TRIPLE.match(text) for text in write([ASKED.format(**one) for one in fields])]
    kept = [n for n, match in enumerate(matches) if match]
    questions = {n: match["question"].strip() for n, match in enumerate(matches) if match}
    again = write([AGAIN.format(**fields[n], question=questions[n]) for n in kept])
    made: list[dict[str, Any]] = [{} for _ in told]
    for n, second in zip(kept, again, strict=True):
        match = matches[n]
        assert match is not None
        answer = match["answer"].lower()
        made[n] = {"question": questions[n], "label": SIDES.index(answer), "correct": found(answer, second)}
    return made
