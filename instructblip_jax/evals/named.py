"""The known class that a generated answer names, for classification by open-ended answers."""

import re
from collections.abc import Sequence
from functools import lru_cache


@lru_cache(maxsize=64)
def _forms(classes: tuple[str, ...]) -> dict[re.Pattern[str], int]:
    """The longest names first, so that "bottle opener" is not taken for a bottle."""
    order = sorted(range(len(classes)), key=lambda n: -len(classes[n]))
    return {_form(classes[n]): n for n in order}


def _form(name: str) -> re.Pattern[str]:
    words = r"[\s_-]*".join(map(re.escape, re.split(r"[\s_-]+", name.lower().strip())))
    return re.compile(rf"(?<![a-z0-9]){words}(?:e?s)?(?![a-z0-9])")


def first(text: str, classes: Sequence[str]) -> int | None:
    """The class whose name comes first in ``text``, the longest of those that begin at the same place; None if there is
    none.

    A name of several words matches however the words are joined; plurals match too.
    """
    text = text.lower()
    found = [
        (match.start(), -len(match[0]), n) for form, n in _forms(tuple(classes)).items() if (match := form.search(text))
    ]
    return min(found)[2] if found else None


def by_words(text: str, classes: Sequence[str]) -> int | None:
    """The first class of the list whose name is a word of ``text`` cut at blanks: X-InstructBLIP's rule (arXiv
    2311.18799), under which a name of two words never counts."""
    words = set(re.sub(r"[^\w\s-]", "", text.lower()).split())
    return next((n for n, name in enumerate(classes) if name.lower() in words), None)
