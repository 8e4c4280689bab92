"""Processors of systems that read images and a text: a question with its answer, or a sentence with its class."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from instructblip_jax.processors.base import Given, Medium, Row
from instructblip_jax.processors.cleaning import Cleaning
from instructblip_jax.processors.image_text import ImageTextProcessor


class SentenceProcessor(ImageTextProcessor):
    """Base of both."""

    KINDS = ("image",)
    cleaning: ClassVar[Cleaning]
    """The rules for cleaning texts in training and evaluation; users' texts are not cleaned."""

    @abstractmethod
    def sentence(self, text: str, limit: int) -> np.ndarray:
        """Tokens of a text int32 [n], special ones included, truncated to ``limit``."""

    @property
    def positions(self) -> int:
        """Maximum number of tokens of the text model."""
        return self.config.text.max_position_embeddings

    def lengths(self, row: Row) -> tuple[int, int]:
        """See `BaseProcessor`."""
        return len(row["input_ids"]), len(row.get("labels", ()))


class AnswerProcessor(SentenceProcessor):
    """Questions and answers. A subclass defines ``QUESTION``, the maximum number of question tokens in training."""

    QUESTION: ClassVar[int]

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """input_ids of the question, in training cleaned and cut; and, with a response, labels."""
        question = self.cleaning.question(instruction, training=True) if training else instruction
        row = {"input_ids": self.sentence(question, self.QUESTION if training else self.positions)}
        return row if response is None else row | {"labels": self.response(response)}

    def asked(self, instruction: str) -> str:
        """See `BaseProcessor`."""
        return self.cleaning.question(instruction, training=False)

    def response(self, text: str) -> np.ndarray:
        """An answer's tokens and [SEP], int32 [n]."""
        return np.append(self.tokenizer.encode(text, special=False), np.int32(self.end_id))


class ClassProcessor(SentenceProcessor):
    """Sentences about one or more images, and their classes."""

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """input_ids of the sentence, in training cleaned; and, with a response, "labels" int32 [1], its class index.

        Raises ValueError for a response that is not a class.
        """
        text = self.cleaning.caption(instruction) if training else instruction
        row = {"input_ids": self.sentence(text, self.positions)}
        return row if response is None else row | {"labels": self.response(response)}

    def asked(self, instruction: str) -> str:
        """See `BaseProcessor`."""
        return self.cleaning.caption(instruction)

    def response(self, text: str) -> np.ndarray:
        """The index of a class, int32 [1]. Raises ValueError for a text that is not a class."""
        classes = [name.lower() for name in self.config.classes]
        if text.strip().lower() not in classes:
            raise ValueError(f"{text!r} is not a class; the classes are {', '.join(self.config.classes)}")
        return np.array([classes.index(text.strip().lower())], np.int32)

    def given(self, row: Given, name: str) -> list[Medium]:
        """The images of one row: one, or several."""
        if isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 4):
            return [("image", picture) for picture in row]
        return [("image", row)]

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """See `ImageTextProcessor`. Raises ValueError for a row with another number of images than this form reads."""
        if len(media) != self.config.pictures_shown:
            raise ValueError(f"{name}: shows {len(media)} pictures; this form reads {self.config.pictures_shown} a row")
        return super().media(media, name, rng)
