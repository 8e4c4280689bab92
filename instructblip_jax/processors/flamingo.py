"""Flamingo's processor: texts in which one token marks an image, and another one ends the image's text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from instructblip_jax.processors.base import IGNORE, Medium, Row
from instructblip_jax.processors.image import CroppedImageProcessor, ImageProcessor
from instructblip_jax.processors.interleaved import MARK, InterleavedProcessor

CHUNK = "<|endofchunk|>"
"""Ends the text of an image: OpenFlamingo's form of the paper's <EOC>."""
FRAME = "frame"
Piece = str | int
"""A text, or the id of a special token."""


class FlamingoProcessor(InterleavedProcessor):
    """See the module. A video is its frames, which are one medium with one mark."""

    IMAGE: type[ImageProcessor] = CroppedImageProcessor
    FEW_SHOT: ClassVar[str] = "flamingo"
    prompts_may_be_empty = True  # after an image alone, the model writes a caption

    @classmethod
    def from_directory(cls, directory: Path, config: Any) -> "FlamingoProcessor":
        """See `ImageTextProcessor`; ``config`` is a `systems.flamingo.FlamingoConfig`.

        Raises ValueError if the tokenizer has other tokens at the ids in config.json.
        """
        processor = super().from_directory(directory, config)
        for number, text in processor.special.items():
            if (found := processor.tokenizer.token(number)) != text:
                raise ValueError(
                    f"{directory / 'tokenizer.json'}: token {number} is {found!r}, but {text!r} according to "
                    f"config.json; these files belong to different models"
                )
        if config.chunk_token_id >= 0:
            processor.end_id = config.chunk_token_id
        return processor

    @property
    def special(self) -> Mapping[int, str]:
        """Tokens of the configuration -> their texts."""
        return {self.config.image_token_id: MARK, self.config.chunk_token_id: CHUNK}

    # Texts

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids and, with a response, labels.

        Raises ValueError for a text with marks for more or fewer than ``pictures``.
        """
        return self.continued(self._ids(_parts(self.marked(instruction, pictures))), response)

    def document(self, parts: Sequence[str | int]) -> Row:
        """See `BaseProcessor`. The loss covers the text after an image and the token that ends it, as in OpenFlamingo;
        if tokens may attend to the next image, all of the text. It never covers image tokens."""
        ids = self._ids([part if isinstance(part, str) else None for part in parts], whole=True)
        labels = np.where(self._learnt(ids), ids, np.int32(IGNORE))
        return {"input_ids": ids, "labels": labels}

    def _learnt(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of a document int [n] -> bool [n], true for those in the loss."""
        image, place = ids == self.config.image_token_id, np.arange(len(ids))
        if self.config.next_picture > 0:
            return ~image
        begun = np.maximum.accumulate(np.where(image, place, -1))
        ended = np.maximum.accumulate(np.where(ids == self.config.chunk_token_id, place, -1))
        ended = np.concatenate([[-1], ended[:-1]])  # the token that ends a text counts
        return (begun > ended) & ~image

    def _ids(self, parts: Sequence[str | None], *, whole: bool = False) -> np.ndarray:
        """Texts and images (None) -> tokens, int32 [n]; ``whole``: nothing follows them."""
        return self.tokenizer.joined(self.pieces(parts, whole=whole))[0]

    def pieces(self, parts: Sequence[str | None], *, whole: bool) -> list[Piece]:
        """Texts and images (None) in reading order -> texts and special tokens. Blanks next to an image are removed.

        The text of an image ends at the next image, or at the end of a ``whole`` text.
        """
        pieces: list[Piece] = []
        open_chunk = False
        for part in [*parts, None] if whole else parts:
            if part is not None:
                text = part.lstrip(" ") if open_chunk else part
                pieces.append(text)
                continue
            text = str(pieces.pop()).rstrip(" ") if pieces and isinstance(pieces[-1], str) else ""
            words = text.rstrip()
            pieces += [words, self.config.chunk_token_id, text[len(words) :]] if open_chunk and words else [text]
            pieces.append(self.config.image_token_id)
            open_chunk = True
        if whole:
            pieces[-1] = self.config.document_end
        return [piece for piece in pieces if piece != ""]

    def picture_tokens(self, ids: np.ndarray) -> np.ndarray:
        """See `InterleavedProcessor`: none, because static text lengths count them."""
        return np.zeros(len(ids), bool)

    def pictures_in(self, ids: np.ndarray) -> int:
        """See `InterleavedProcessor`."""
        return int((ids == self.config.image_token_id).sum())

    # Media

    def shown(self, kinds: tuple[str, ...]) -> int:
        """See `BaseProcessor`; the frames of a video count as one."""
        return 1 if FRAME in kinds else len(kinds)

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """See `InterleavedProcessor`; for a video, pixel_values is [1, F, H, W, 3]."""
        arrays = super().media(media, name, rng)
        if FRAME not in {kind for kind, _ in media}:
            return arrays
        return {key: x[None] for key, x in arrays.items()}

    def stack(self, rows: Sequence[Mapping[str, np.ndarray]], kinds: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """See `InterleavedProcessor`."""
        return super().stack(rows, () if FRAME in kinds else kinds)


def _parts(text: str) -> list[str | None]:
    """A text with marks -> its texts, and None for each mark."""
    first, *more = text.split(MARK)
    return [first, *(part for piece in more for part in (None, piece))]
