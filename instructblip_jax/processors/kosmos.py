"""KOSMOS' processor: texts between <s> and </s>, with each image between <image> and </image>."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructblip_jax.processors.base import IGNORE, Medium, Row
from instructblip_jax.processors.image import ImageProcessor
from instructblip_jax.processors.interleaved import MARK, InterleavedProcessor


class SquareImageProcessor(ImageProcessor):
    """KOSMOS-2's files specify a square by its shorter side."""

    @classmethod
    def sizes(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """See `ImageProcessor`."""
        size = raw.get("size")
        if isinstance(size, dict) and raw.get("use_square_size") and "shortest_edge" in size:
            return super().sizes({"size": int(size["shortest_edge"])})
        return super().sizes(raw)


class KosmosProcessor(InterleavedProcessor):
    """See the module. In a text without marks, the images come first."""

    IMAGE = SquareImageProcessor
    TAGS = (MARK, "</image>")
    FEW_SHOT = "kosmos"
    prompts_may_be_empty = True

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids and, with a response, labels of its tokens and
        </s>. Raises ValueError for a text with marks for more or fewer pictures."""
        return self.continued(self._text(self.marked(instruction, pictures)), response)

    def document(self, parts: Sequence[str | int]) -> Row:
        """See `BaseProcessor`: the loss covers all words and </s>, but not <s>, image placeholders or image tags."""
        ids = np.append(self._text("".join(MARK if isinstance(part, int) else part for part in parts)), self.end_id)
        labels = np.where(self.picture_tokens(ids), IGNORE, ids)
        labels[0] = IGNORE
        return {"input_ids": ids.astype(np.int32), "labels": labels.astype(np.int32)}

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """See `InterleavedProcessor`; a text alone has no image, so that the tower does not read a blank one."""
        arrays = super().media(media, name, rng)
        return arrays if media else {key: x[:0] for key, x in arrays.items()}

    def picture_tokens(self, ids: np.ndarray) -> np.ndarray:
        """See `InterleavedProcessor`: <image>, </image> and what is between them."""
        end = ids == self.config.end_id
        return (np.cumsum(ids == self.config.begin_id) > np.cumsum(end)) | end

    def _text(self, text: str) -> np.ndarray:
        """<s>, the words of each piece, and the tokens of an image for each mark between two pieces, int32 [n].

        Pieces are tokenized separately, so that a word's tokens do not depend on an image before it.
        """
        config = self.config
        slots = np.arange(config.first_slot, config.first_slot + config.slots)
        picture = np.concatenate([[config.begin_id], slots, [config.end_id]])
        first, *later = (self.tokenizer.encode(piece.strip(), special=False) for piece in text.split(MARK))
        rows = [np.array([config.text.bos_token_id]), first]
        for words in later:
            rows += [picture, words]
        return np.concatenate(rows).astype(np.int32)
