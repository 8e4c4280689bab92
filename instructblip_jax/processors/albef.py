"""ALBEF's processors: images with a caption, a question and its answer, or a sentence and its class."""

from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.processors.cleaning import ALBEF
from instructblip_jax.processors.image_text import ImageTextProcessor
from instructblip_jax.processors.pairs import PairProcessor
from instructblip_jax.processors.sentences import AnswerProcessor, ClassProcessor, SentenceProcessor

PRETRAINING, RETRIEVAL = 25, 30
"""Maximum number of caption tokens in pre-training and otherwise (as in the original code)."""


class AlbefPairProcessor(PairProcessor):
    """Captions, for pre-training and retrieval."""

    KINDS = ("image",)

    def __init__(self, config: Any, *parts: Any, **ids: Any):
        super().__init__(config, *parts, **ids)
        self.ends_with_separator = config.add_sep

    def clean(self, text: str) -> str:
        """See `PairProcessor`."""
        return ALBEF.caption(text)

    def token_limit(self, *, training: bool) -> int:
        """See `PairProcessor`."""
        limit = PRETRAINING if training and self.config.masked_words else RETRIEVAL
        return min(limit, self.config.text.max_position_embeddings)


class AlbefSentences(SentenceProcessor):
    """Texts are [CLS] text, followed by [SEP] if the configuration requires it."""

    cleaning = ALBEF

    def sentence(self, text: str, limit: int) -> np.ndarray:
        """See `SentenceProcessor`."""
        ids = self.tokenizer.encode(text)[:-1]
        if not self.config.add_sep:
            return ids[:limit]
        return np.append(ids[: limit - 1], np.int32(self.config.sep_id))


class AlbefAnswerProcessor(AlbefSentences, AnswerProcessor):
    """Questions and answers."""

    QUESTION = 25


class AlbefClassProcessor(AlbefSentences, ClassProcessor):
    """Sentences about one image or two, and their classes."""


def from_directory(directory: Path, config: Any) -> ImageTextProcessor:
    """The processor of a model directory's form; see `ImageTextProcessor`.

    Raises ValueError if config.json's token ids are not the tokenizer's.
    """
    if hasattr(config, "masked_words"):
        kind: type[ImageTextProcessor] = AlbefPairProcessor
    else:
        kind = AlbefClassProcessor if hasattr(config, "classes") else AlbefAnswerProcessor
    processor = kind.from_directory(directory, config)
    for name, number in (("[CLS]", config.cls_id), ("[SEP]", config.sep_id), ("[MASK]", config.mask_id)):
        if (found := processor.tokenizer.token(number)) != name:
            raise ValueError(
                f"{directory / 'config.json'}: the token with the id {number} is {found!r} in tokenizer.json, "
                f"not {name}"
            )
    return processor
