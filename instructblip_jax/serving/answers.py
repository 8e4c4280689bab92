"""The text of an answer as it is generated token by token, and the detection of its end."""

from collections.abc import Sequence

import numpy as np

from instructblip_jax.processors.base import BaseProcessor

STOP, LENGTH = "stop", "length"
"""Why an answer ended: with its end token or a stop text, or at the token limit."""


class Answer:
    """Ids in, pieces of text out. Joined, they are the answer of `generate` up to the first stop text."""

    def __init__(self, processor: BaseProcessor, ends: frozenset[int], most: int, stops: Sequence[str] = ()):
        self._processor, self._ends, self._most, self._stops = processor, ends, most, tuple(stops)
        self.ids: list[int] = []
        self.text = ""
        self._shown = 0
        self.finish: str | None = None

    def add(self, token: int) -> str:
        """Add a token and return the text that is now certain. The last token sets `finish`."""
        self.ids.append(token)
        ended = token in self._ends
        whole = self._processor.decode(np.array([self.ids]))[0]
        settled = whole if ended or len(self.ids) == self._most else self._processor.settled(whole)
        found = [place for stop in self._stops if (place := whole.find(stop)) >= 0]
        if found:
            settled, self.finish = whole[: min(found)], STOP
        elif ended:
            self.finish = STOP
        elif len(self.ids) == self._most:
            self.finish = LENGTH
        else:
            settled = settled[: len(settled) - self._held_back(settled)]
        piece = settled[self._shown :]
        if self.finish or piece:
            self.text, self._shown = settled, max(self._shown, len(settled))
        return piece

    @property
    def counted(self) -> list[int]:
        """The answer's tokens without the end token."""
        return self.ids[:-1] if self.ids and self.ids[-1] in self._ends else self.ids

    def _held_back(self, text: str) -> int:
        """Number of characters at the end that may be the start of a stop text."""
        longest = max(map(len, self._stops), default=0)
        return next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self._stops)), 0
        )
