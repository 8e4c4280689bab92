"""The option that a generated answer to a ScienceQA problem chooses, by the scoring rule of LLaVA's results
(arXiv 2304.08485, section 5.2)."""

import re

LETTERS = "ABCDE"
"""The letters of options; no problem has more."""
_SENTENCE = re.compile("The answer is ([A-Z]).")  # any character but a line end may follow the letter, as published


def chosen(text: str, count: int) -> int | None:
    """The index of the chosen option, below ``count``, or None if the text chooses none of them.

    A text chooses an option if it is a single letter, begins with a letter, a full stop and a space, or contains the
    sentence "The answer is B." exactly once. Surrounding white space is ignored.
    """
    text = text.strip()
    if text and text[0] in LETTERS and (len(text) == 1 or text[1:3] == ". "):
        found = text[0]
    else:
        sentences = _SENTENCE.findall(text)
        found = sentences[0] if len(sentences) == 1 else ""
    place = LETTERS.find(found) if found else -1
    return place if 0 <= place < count else None
