"""The processor of systems that compare pictures with texts: one BERT tokenizer, texts as they stand or cleaned."""

import functools

import numpy as np

from instructblip_jax.processors.base import Row
from instructblip_jax.processors.image_text import ImageTextProcessor

PICTURE = "picture"
"""Batch key of the identities of the rows' pictures, where a system's configuration lists it."""


class PairProcessor(ImageTextProcessor):
    """A row is a text about a picture, [CLS] text [SEP]: in training that of the response, otherwise the instruction.

    A subclass says how captions are cleaned (`clean`) and how many tokens are read (`token_limit`).
    """

    ends_with_separator: bool = True
    """Texts end with [SEP]; the original ALBEF's do not."""

    def clean(self, text: str) -> str:
        """A caption as the system's paper cleans it before it is read."""
        raise NotImplementedError

    def token_limit(self, *, training: bool) -> int:
        """The most tokens of a text that are read, special ones included; its first ones are kept."""
        raise NotImplementedError

    def caption_row(self, text: str, *, clean: bool, training: bool = False) -> np.ndarray:
        """A text's tokens int32 [n], special ones included, cut to `token_limit`. ``clean``: `clean` it first."""
        ids = self.tokenizer.encode(self.clean(text) if clean else text)
        limit = self.token_limit(training=training)
        if not self.ends_with_separator:
            return ids[:-1][:limit]
        return ids if len(ids) <= limit else np.append(ids[: limit - 1], ids[-1])

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """input_ids of the one text: the response's where there is one, cleaned in training."""
        text = instruction if response is None else response
        return {"input_ids": self.caption_row(text, clean=training, training=training)}

    def response(self, text: str) -> np.ndarray:
        """See `BaseProcessor`."""
        return self.caption_row(text, clean=False)

    @functools.cached_property
    def identity_key(self) -> str:  # asked for every record
        """See `BaseProcessor`."""
        return PICTURE if PICTURE in self.config.batch(1, 1, 1) else ""

    def ignore(self, batch: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """See `BaseProcessor`. Raises ValueError for any row: each is a negative of the others, and must be real."""
        if rows.any():
            raise ValueError("a batch of pairs cannot be filled up with rows that count nothing")

    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens as a prompt and as a response: a text is either, so both are its own."""
        return len(row["input_ids"]), len(row["input_ids"])
