"""Frozen's processor: placeholders for a few vectors of each image among the words."""

from collections.abc import Sequence

import numpy as np

from instructblip_jax.processors.base import IGNORE, Row
from instructblip_jax.processors.image import CroppedImageProcessor
from instructblip_jax.processors.interleaved import MARK, InterleavedProcessor


class PaddedImageProcessor(CroppedImageProcessor):
    """Pads images to a square with zeros, and resizes them."""

    @property
    def background(self) -> tuple[int, ...]:
        """Black."""
        return (0, 0, 0)


class FrozenProcessor(InterleavedProcessor):
    """See the module. In a text without marks, the images come first; a caption needs no instruction.

    The placeholder token of images is the last of the vocabulary, and has no row in the language model.
    """

    IMAGE = PaddedImageProcessor
    FEW_SHOT = "frozen"
    ROWLESS = 1
    prompts_may_be_empty = True

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids and, with a response, labels of its tokens and
        the end token. Raises ValueError for a text with marks for more or fewer pictures."""
        ids, _ = self._text(self.marked(instruction, pictures))
        return self.continued(ids, response)

    def document(self, parts: Sequence[str | int]) -> Row:
        """See `BaseProcessor`: the loss covers all words and the end token."""
        ids, words = self._text("".join(MARK if isinstance(part, int) else part for part in parts))
        end = np.array([self.end_id], np.int32)
        return {
            "input_ids": np.concatenate([ids, end]),
            "labels": np.concatenate([np.where(words, ids, IGNORE), end]).astype(np.int32),
        }

    def picture_tokens(self, ids: np.ndarray) -> np.ndarray:
        """See `InterleavedProcessor`."""
        return ids == self.config.image_token_id

    def _text(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """A text with marks -> its tokens int32 [n], and bool [n], true for words, but not for begin tokens and
        placeholders."""
        config = self.config
        first, *later = text.split(MARK)
        pieces: list[str | int] = [first]
        for words in later:
            pieces += [*[config.image_token_id] * config.vectors, words]
        ids, ends = self.tokenizer.joined([piece for piece in pieces if piece != ""])
        return ids, (ends > 0) & ~self.picture_tokens(ids)
