"""The option that a written answer to a ScienceQA problem chooses, by the rule that LLaVA's results are scored with
(arXiv 2304.08485, section 5.2)."""

import re

LETTERS = "ABCDE"
"""The marks of options; no problem has more."""
_SENTENCE = re.compile("The answer is ([A-Z]).")  # any character but a line end may follow the letter, as published


def chosen(text: str, count: int) -> int | None:
    """The index of the chosen one of ``count`` options, or None where the text chooses none of them.

    A text chooses by being a bare letter, by beginning with a letter, a full stop and a blank, or else by the sentence
    "The answer is B." if it occurs exactly once. Blanks around the text do not count.
    """
    text = text.strip()
    if text and text[0] in LETTERS and (len(text) == 1 or text[1:3] == ". "):
        found = text[0]
    else:
        sentences = _SENTENCE.findall(text)
        found = sentences[0] if len(sentences) == 1 else ""
    place = LETTERS.find(found) if found else -1
    return place if 0 <= place < count else None
