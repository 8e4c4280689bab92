"""The one of two media that a generated answer chooses, "first" or "second" (DisCRn)."""

import re

from instructblip_jax.evals.vqa import normalise

KINDS = (
    ("audio", "sound", "image", "photo", "picture"),
    ("video", "film", "3d", "model", "rendering"),
)
"""The media on either side by their kind, as the sets of DisCRn have them."""
ORDER = (("first", "1st", "left", "one", "1"), ("second", "2nd", "right", "two", "2"))
LETTERS = ("a", "b")
_LETTERED = r"\({0}\)|^\W*{0}\W*$|\b(?:option|object|entity|input|image|item|choice) {0}\b"


def chosen(text: str) -> int | None:
    """The side that ``text`` names, 0 or 1, by order, kind or letter; None where it names neither, or both.

    A letter counts in brackets, after a noun or alone: "a" before a noun is an article. "One" and "two" count only if
    there is no other ordinal, as in "the second one".
    """
    said = text.lower()
    words = set(re.findall(r"[a-z0-9]+", said))
    for sides in (
        [set(order[:3]) for order in ORDER],
        [set(order[3:]) for order in ORDER],
        [set(kind) for kind in KINDS],
    ):
        named = [bool(words & side) for side in sides]
        if any(named):
            return None if all(named) else named.index(True)
    named = [re.search(_LETTERED.format(letter), said) is not None for letter in LETTERS]
    return named.index(True) if sum(named) == 1 else None


def as_published(text: str, side: int) -> bool:
    """True if the text counts for ``side`` by the rule of X-InstructBLIP's evaluation (arXiv 2311.18799), as far as it
    is
    known: the normalised answer, or a word of it, is accepted for that side, whatever else the text contains.
      Normalising
    drops brackets and articles, so that "a" and "(a)" never count, and makes "one" a 1, so that "the second one" counts
    for both sides.
    """
    said = normalise(text)
    return bool({said, *said.split()} & {*ORDER[side], *KINDS[side], LETTERS[side], f"input {side + 1}"})
