"""The processor of systems that compare images with texts: one BERT tokenizer, with raw or cleaned texts."""

import functools

import numpy as np

from instructblip_jax.processors.base import Row
from instructblip_jax.processors.image_text import ImageTextProcessor

PICTURE = "picture"
"""Batch key of the identities of the rows' images, if a system's configuration lists it."""


class PairProcessor(ImageTextProcessor):
    """A row is a text about an image, [CLS] text [SEP]: in training the response, otherwise the instruction.

    A subclass defines how captions are cleaned (`clean`) and the maximum number of tokens (`token_limit`).
    """

    ends_with_separator: bool = True
    """Texts end with [SEP]; the original ALBEF's do not."""

    def clean(self, text: str) -> str:
        """A caption, cleaned as in the system's paper."""
        raise NotImplementedError

    def token_limit(self, *, training: bool) -> int:
        """Maximum number of tokens of a text, special ones included; the first ones are kept."""
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
        """input_ids of the text: the response if there is one, cleaned in training."""
        text = instruction if response is None else response
        return {"input_ids": self.caption_row(text, clean=training, training=training)}

    def response(self, text: str) -> np.ndarray:
        """See `BaseProcessor`."""
        return self.caption_row(text, clean=False)

    @functools.cached_property
    def identity_key(self) -> str:  # called for every record
        """See `BaseProcessor`."""
        return PICTURE if PICTURE in self.config.batch(1, 1, 1) else ""

    def ignore(self, batch: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """See `BaseProcessor`. Raises ValueError for any row: each is a negative of the others, and must be real."""
        if rows.any():
            raise ValueError("a batch of pairs cannot be padded with rows without a loss")

    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens as a prompt and as a response: a text may be either, so both are its length."""
        return len(row["input_ids"]), len(row["input_ids"])
