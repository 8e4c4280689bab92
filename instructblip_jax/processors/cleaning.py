"""Cleaning of captions and questions as in ALBEF (arXiv 2107.07651), BLIP (2201.12086) and BLIP-2 (2301.12597)."""

import dataclasses
import re

_RUN = re.compile(r"\s{2,}")


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """One system's rules. Texts become lower case, and are cut after a number of words; a text may become empty.

    Attributes:
      marks: characters that are removed. In captions they become spaces if ``spaced``.
      joints: characters that become spaces.
      named: (text, replacement) pairs, in captions only.
      caption_words, question_words: maximum number of words of a caption, and of a question in training.
      asked_words: the same of a question in evaluation.
    """

    marks: str
    spaced: bool
    joints: str
    named: tuple[tuple[str, str], ...]
    caption_words: int
    question_words: int
    asked_words: int

    def caption(self, text: str) -> str:
        """A caption, with runs of white space as one space; a single tab or line end is kept, as published."""
        text = text.lower()
        for mark in self.marks:
            text = text.replace(mark, " " if self.spaced else "")
        text = self._opened(text)
        for old, new in self.named:
            text = text.replace(old, new)
        return _cut(_RUN.sub(" ", text).rstrip("\n").strip(" "), self.caption_words)

    def question(self, text: str, *, training: bool) -> str:
        """A question. Its marks are removed in all systems; runs of spaces are kept and count as words."""
        text = text.lower()
        for mark in self.marks:
            text = text.replace(mark, "")
        return _cut(self._opened(text).rstrip(" "), self.question_words if training else self.asked_words)

    def _opened(self, text: str) -> str:
        for joint in self.joints:
            text = text.replace(joint, " ")
        return text


def _cut(text: str, words: int) -> str:
    """The first words of a text; each space ends one."""
    return " ".join(text.split(" ")[:words])


ALBEF = Cleaning(
    marks=",.'!?\"()*#:;~",
    spaced=False,
    joints="-/",
    named=(("<person>", "person"),),
    caption_words=30,
    question_words=30,
    asked_words=50,
)
BLIP = Cleaning(
    marks='.!"()*#:;~',
    spaced=True,
    joints="",
    named=(),
    caption_words=30,
    question_words=50,
    asked_words=50,
)
BLIP2 = dataclasses.replace(BLIP, caption_words=50)
"""BLIP's rules in LAVIS, where captions may have 50 words."""
