"""BLIP's processors: an image with a caption, a text to continue or a question, or two images with a sentence.

The tokenizer is plain BERT's. The tokens [DEC] and [ENC], which begin texts that are generated or read with an image,
are not in its vocabulary: the configuration has their ids.
"""

from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.processors.base import IGNORE, Row
from instructblip_jax.processors.cleaning import BLIP
from instructblip_jax.processors.image_text import ImageTextProcessor
from instructblip_jax.processors.pairs import PairProcessor
from instructblip_jax.processors.sentences import AnswerProcessor, ClassProcessor, SentenceProcessor

PRETRAINING, RETRIEVAL, CAPTION = 30, 35, 40
"""Maximum number of caption tokens in pre-training and retrieval, and of prompt and caption together (the
original's)."""


class BlipPairProcessor(PairProcessor):
    """Captions, for pre-training and retrieval."""

    KINDS = ("image",)

    @property
    def identity_key(self) -> str:
        """See `BaseProcessor`; pre-training does not use it."""
        return "" if self.config.writes else "picture"

    def clean(self, text: str) -> str:
        """See `PairProcessor`."""
        return BLIP.caption(text)

    def token_limit(self, *, training: bool) -> int:
        """See `PairProcessor`: retrieval's limit outside of pre-training."""
        limit = PRETRAINING if training and self.config.writes else RETRIEVAL
        return min(limit, self.config.text.max_position_embeddings)


class BlipCaptionProcessor(ImageTextProcessor):
    """Prompts, which may be empty, and captions that continue them."""

    prompts_may_be_empty = True

    KINDS = ("image",)

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """input_ids: [DEC] and the instruction, without a [SEP]; with a response, in training cleaned, its tokens and
        [SEP] follow, and are the "labels". In training the first `CAPTION` tokens are kept, and the [SEP]."""
        prompt = np.concatenate([[self.config.dec_id], self.tokenizer.encode(instruction, special=False)])
        prompt = prompt.astype(np.int32)
        if response is None:
            return {"input_ids": prompt}
        answer = self.response(BLIP.caption(response) if training else response)
        if training and len(prompt) + len(answer) > CAPTION:
            room = max(1, CAPTION - len(prompt))
            answer = np.append(answer[: room - 1], answer[-1])
        labels = np.concatenate([np.full_like(prompt, IGNORE), answer])
        return {"input_ids": np.concatenate([prompt, answer]), "labels": labels}

    def response(self, text: str) -> np.ndarray:
        """A caption's tokens and [SEP], int32 [n]."""
        return np.append(self.tokenizer.encode(text, special=False), np.int32(self.end_id))

    def lengths(self, row: Row) -> tuple[int, int]:
        """See `BaseProcessor`; [DEC] is one of the prompt's tokens."""
        response = int(np.sum(row["labels"] != IGNORE)) if "labels" in row else 0
        return len(row["input_ids"]) - response, response


class BlipSentences(SentenceProcessor):
    """Texts are [ENC] text [SEP]."""

    cleaning = BLIP

    def sentence(self, text: str, limit: int) -> np.ndarray:
        """See `SentenceProcessor`."""
        ids = self.tokenizer.encode(text, special=False)[: limit - 2]
        return np.concatenate([[self.config.enc_id], ids, [self.config.sep_id]]).astype(np.int32)


class BlipAnswerProcessor(BlipSentences, AnswerProcessor):
    """Questions and answers."""

    QUESTION = 35


class BlipClassProcessor(BlipSentences, ClassProcessor):
    """Sentences about two images, and their classes."""


def from_directory(directory: Path, config: Any) -> ImageTextProcessor:
    """The processor of a model directory's form; see `ImageTextProcessor`.

    Raises ValueError if config.json's [SEP] is not the tokenizer's.
    """
    if hasattr(config, "writes"):
        kind: type[ImageTextProcessor] = BlipPairProcessor
    elif hasattr(config, "classes"):
        kind = BlipClassProcessor
    else:
        kind = BlipAnswerProcessor if hasattr(config, "start_id") else BlipCaptionProcessor
    processor = kind.from_directory(directory, config)
    if processor.end_id != config.sep_id:
        raise ValueError(
            f"{directory / 'config.json'}: text_config.sep_token_id is {config.sep_id}; the tokenizer's [SEP] is "
            f"{processor.end_id}"
        )
    return processor
