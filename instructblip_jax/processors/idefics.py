"""Idefics-1's processor: an image is a token between two others, which adjacent images share."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from instructblip_jax.processors.flamingo import FlamingoProcessor, Piece
from instructblip_jax.processors.image import ImageProcessor
from instructblip_jax.processors.interleaved import MARK

FAKE = "<fake_token_around_image>"


class IdeficsImageProcessor(ImageProcessor):
    """Resizes images to a square without keeping the aspect ratio; the public files have a special field for its
    side."""

    @classmethod
    def sizes(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """See `ImageProcessor.sizes`."""
        return super().sizes({"size": raw.get("image_size", {}), **raw})


class IdeficsProcessor(FlamingoProcessor):
    """See the module."""

    IMAGE = IdeficsImageProcessor
    BARE = True  # Hugging Face's processor writes <s> into the text, so all words follow a special token
    FEW_SHOT: ClassVar[str] = "idefics"

    @property
    def special(self) -> Mapping[int, str]:
        """See `FlamingoProcessor`."""
        return {self.config.fake_token_id: FAKE, self.config.image_token_id: MARK}

    def pieces(self, parts: Sequence[str | None], *, whole: bool) -> list[Piece]:
        """See `FlamingoProcessor`: a text loses its outer blanks, as in Hugging Face's processor."""
        pieces: list[Piece] = []
        for part in parts:
            if part is None:
                around = [] if pieces and pieces[-1] == self.config.fake_token_id else [self.config.fake_token_id]
                pieces += [*around, self.config.image_token_id, self.config.fake_token_id]
            elif text := part.strip(" "):
                pieces.append(text)
        return [*pieces, self.config.document_end] if whole else pieces

    def _learnt(self, ids: np.ndarray) -> np.ndarray:
        """All tokens of a document except image tokens."""
        return ids != self.config.image_token_id
