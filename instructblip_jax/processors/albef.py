"""ALBEF's processors: a caption, a question with its answer, or a sentence with its class, beside pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.processors.base import Given, Medium, Row
from instructblip_jax.processors.cleaning import ALBEF
from instructblip_jax.processors.image_text import ImageTextProcessor
from instructblip_jax.processors.pairs import PairProcessor

PRETRAINING, RETRIEVAL, QUESTION = 25, 30, 25
"""The most tokens of a caption in pre-training and in retrieval, and of a question (the original code's)."""


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
        """See `PairProcessor`: of users' texts as many as there are positions."""
        return PRETRAINING if self.config.masked_words else RETRIEVAL


class SentenceProcessor(ImageTextProcessor):
    """A text that is read beside a picture: [CLS] text, with [SEP] where the configuration says so."""

    KINDS = ("image",)

    def sentence(self, text: str, limit: int) -> np.ndarray:
        """Tokens int32 [n], special ones included, ``limit`` of them at most."""
        ids = self.tokenizer.encode(text)[:-1]
        if not self.config.add_sep:
            return ids[:limit]
        return np.append(ids[: limit - 1], np.int32(self.config.sep_id))


class AlbefAnswerProcessor(SentenceProcessor):
    """Questions and answers."""

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """input_ids of the question, in training cleaned; and, with a response, labels."""
        question = ALBEF.question(instruction, training=True) if training else instruction
        limit = QUESTION if training else self.config.text.max_position_embeddings
        row = {"input_ids": self.sentence(question, limit)}
        return row if response is None else row | {"labels": self.response(response)}

    def response(self, text: str) -> np.ndarray:
        """An answer's tokens and [SEP], int32 [n]."""
        return np.append(self.tokenizer.encode(text, special=False), np.int32(self.end_id))

    def lengths(self, row: Row) -> tuple[int, int]:
        """See `BaseProcessor`."""
        return len(row["input_ids"]), len(row.get("labels", ()))


class AlbefClassProcessor(SentenceProcessor):
    """Sentences about one picture or two, and their classes."""

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """input_ids of the sentence, in training cleaned; and, with a response, "labels" int32 [1], its class's number.

        Raises ValueError for a response that is no class.
        """
        text = ALBEF.caption(instruction) if training else instruction
        row = {"input_ids": self.sentence(text, self.config.text.max_position_embeddings)}
        return row if response is None else row | {"labels": self.response(response)}

    def response(self, text: str) -> np.ndarray:
        """The number of a class, int32 [1]. Raises ValueError for a text that is none."""
        classes = [name.lower() for name in self.config.classes]
        if text.strip().lower() not in classes:
            raise ValueError(f"{text!r} is no class; the classes are {', '.join(self.config.classes)}")
        return np.array([classes.index(text.strip().lower())], np.int32)

    def lengths(self, row: Row) -> tuple[int, int]:
        """See `BaseProcessor`."""
        return len(row["input_ids"]), len(row.get("labels", ()))

    def given(self, row: Given, name: str) -> list[Medium]:
        """The pictures of one row: one, or several."""
        if isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 4):
            return [("image", picture) for picture in row]
        return [("image", row)]

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """See `ImageTextProcessor`. Raises ValueError for a row with more or fewer pictures than this form reads."""
        if len(media) != self.config.pictures_shown:
            raise ValueError(f"{name}: shows {len(media)} pictures; this form reads {self.config.pictures_shown} a row")
        return super().media(media, name, rng)


def from_directory(directory: Path, config: Any) -> ImageTextProcessor:
    """The processor of a model directory's form; see `ImageTextProcessor`.

    Raises ValueError where config.json's token ids are not the tokenizer's.
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
