"""Embeddings of images and texts, and match probabilities, by three programs of fixed shapes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from instructblip_jax import comparing
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.serving.errors import wrong
from instructblip_jax.serving.prompts import Shown
from instructblip_jax.serving.reading import Reader
from instructblip_jax.systems.protocol import Media

ROWS = 8
"""Images, texts or pairs per call of a program."""


class Comparer:
    """See the module. All methods except `read` run on the engine's thread."""

    def __init__(self, model: Model, processor: Any, reader: Reader, most: int):
        """``most``: tokens of the longest text. Raises ValueError for a system that does not compare images with
        texts."""
        comparing.check(model, processor)
        self.model, self.processor, self._reader = model, processor, reader
        self.length = min(most, processor.token_limit(training=False))

    def warm_up(self) -> Iterator[str]:
        """Compile the programs; yields a description of each before it is compiled."""
        yield f"{ROWS} texts of {self.length} tokens"
        text = self.read(["a"], "text")
        self.texts(text)
        blank = self._reader.blanks["image"]
        yield f"{ROWS} pictures"
        self.pictures([blank])
        yield f"{ROWS} pairs"
        self.match([blank], text)

    def read(self, texts: Sequence[str], param: str) -> list[dict[str, np.ndarray]]:
        """Texts -> token rows. Raises `Refusal` for a text that is empty, or too long for this server."""
        if empty := [n for n, text in enumerate(texts) if not text.strip()]:
            raise wrong("the text is empty", f"{param}[{empty[0]}]")
        rows = comparing.text_rows(self.processor, texts, clean=False)
        longest = max(self.processor.lengths(row)[0] for row in rows)
        if longest > self.length:
            raise wrong(f"a text has {longest} tokens; this server accepts {self.length}", param)
        return rows

    def texts(self, rows: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
        """Token rows -> unit vectors float32 [N, E]."""
        found = [self.model.embed_texts(self._batch(part)) for part in _parts(rows)]
        return np.concatenate(found)[: len(rows)]

    def pictures(self, shown: Sequence[Shown]) -> np.ndarray:
        """Images -> unit vectors float32 [N, E], or [N, Q, E] if the system has Q query embeddings."""
        found = [self.model.embed_media(self._encoded(part)) for part in _parts(shown)]
        return np.concatenate(found)[: len(shown)]

    def match(self, shown: Sequence[Shown], rows: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
        """The probability that each of B images matches each of N texts, float32 [B, N]."""
        found = []
        for picture in shown:
            media = self._encoded([picture] * ROWS)
            parts = [comparing.probability(self.model.match(media, self._batch(part))) for part in _parts(rows)]
            found.append(np.concatenate(parts)[: len(rows)])
        return np.stack(found)

    def _batch(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return comparing.text_batch(self.processor, rows, self.length)

    def _encoded(self, shown: Sequence[Shown]) -> Media:
        return self.model.encode(self.processor.stack([one.arrays for one in shown]))


def compares(model: Model, processor: BaseProcessor) -> bool:
    """True for a system that compares images with texts."""
    return model.has("embed_media") and hasattr(processor, "caption_row")


def _parts(rows: Sequence[Any]) -> Iterator[list[Any]]:
    """The rows in parts of `ROWS`; the last part is padded with the first row."""
    for start in range(0, len(rows), ROWS):
        part = list(rows[start : start + ROWS])
        yield part + [rows[0]] * (ROWS - len(part))
