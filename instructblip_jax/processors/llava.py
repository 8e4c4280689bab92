"""LLaVA's processor: pictures, and conversations in which each picture holds its place."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.processors import conversation
from instructblip_jax.processors.base import Row
from instructblip_jax.processors.image import CroppedImageProcessor
from instructblip_jax.processors.interleaved import InterleavedProcessor

CUES = {"v1": "ASSISTANT:", "v0": "###Assistant:"}
"""Template -> the text behind which an answer is to be written."""
NEXT = {"v0": "###"}
"""Template -> the text that begins the next turn, where no end token ends an answer."""


class LlavaProcessor(InterleavedProcessor):
    """See the module.

    An instruction is put into the template of ``config.conversation``. A ready prompt, as Hugging Face's processor
    takes it, is read as it is, its special tokens too: that is a text that holds the image token ("<image>") for each
    picture of its row, or ends with the template's cue for an answer ("ASSISTANT:").
    """

    IMAGE = CroppedImageProcessor
    FEW_SHOT = "llava"
    converses = True

    @classmethod
    def from_directory(cls, directory: Path, config: Any) -> "LlavaProcessor":
        """See `ImageTextProcessor`; ``config`` is a `systems.llava.LlavaConfig`."""
        processor = super().from_directory(directory, config)
        if config.image_aspect_ratio:
            processor.image = dataclasses.replace(processor.image, pad=config.image_aspect_ratio == "pad")
        return processor

    # Texts

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids and, with a response, labels.

        Raises ValueError for a ready prompt that has more or fewer image tokens than ``pictures``.
        """
        config = self.config
        mark, cue = self.tokenizer.token(config.image_token_id), CUES.get(config.conversation)
        if training or not (mark in instruction or (cue and instruction.endswith(cue))):
            return self._row([(instruction, response)], pictures)
        if (count := instruction.count(mark)) != pictures:
            raise ValueError(f"holds {mark} {count} times, and its row has {pictures} pictures")
        ids = conversation.ready(self.tokenizer, instruction, config.tokens_per_picture, config.image_token_id)
        return self.continued(ids, response)

    def converse(self, turns: Sequence[tuple[str, str | None]], pictures: int) -> Row:
        """See `BaseProcessor`: input_ids and labels, int32 [n]."""
        return self._row(turns, pictures)

    def _row(self, turns: Sequence[tuple[str, str | None]], pictures: int) -> dict[str, np.ndarray]:
        config = self.config
        ids, labels = conversation.encode(
            self.tokenizer,
            config.conversation,
            turns,
            pictures,
            config.tokens_per_picture,
            config.image_token_id,
            self.end_id,
        )
        return {"input_ids": ids} if turns[-1][1] is None else {"input_ids": ids, "labels": labels}

    def picture_tokens(self, ids: np.ndarray) -> np.ndarray:
        """See `InterleavedProcessor`."""
        return ids == self.config.image_token_id

    def decode(self, ids: np.ndarray) -> list[str]:
        """See `BaseProcessor`; an answer ends where the template's next turn begins, too."""
        texts, follows = super().decode(ids), NEXT.get(self.config.conversation)
        return [text.partition(follows)[0].strip() for text in texts] if follows else texts
