"""LLaVA's processor: pictures, and conversations in which each picture holds its place."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.pixels import BLANK, SCALE, all_numbers
from instructblip_jax.processors import conversation
from instructblip_jax.processors.base import IGNORE, Given, Medium, Row
from instructblip_jax.processors.image import CroppedImageProcessor
from instructblip_jax.processors.image_text import ImageTextProcessor

CUES = {"v1": "ASSISTANT:", "v0": "###Assistant:"}
"""Template -> the text behind which an answer is to be written."""
NEXT = {"v0": "###"}
"""Template -> the text that begins the next turn, where no end token ends an answer."""


class LlavaProcessor(ImageTextProcessor):
    """See the module.

    An instruction is put into the template of ``config.conversation``. A ready prompt, as Hugging Face's processor
    takes it, is read as it is, its special tokens too: that is a text that holds the image token ("<image>") for each
    picture of its row, or ends with the template's cue for an answer ("ASSISTANT:").
    """

    IMAGE = CroppedImageProcessor
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
        ids = conversation.ready(self.tokenizer, instruction, config.slots, config.image_token_id)
        if response is None:
            return {"input_ids": ids}
        answer = self.response(response)
        labels = np.concatenate([np.full_like(ids, IGNORE), answer])
        return {"input_ids": np.concatenate([ids, answer]), "labels": labels}

    def converse(self, turns: Sequence[tuple[str, str]], pictures: int) -> Row:
        """See `BaseProcessor`: input_ids and labels, int32 [n]."""
        return self._row(turns, pictures)

    def _row(self, turns: Sequence[tuple[str, str | None]], pictures: int) -> dict[str, np.ndarray]:
        config = self.config
        ids, labels = conversation.encode(
            self.tokenizer, config.conversation, turns, pictures, config.slots, config.image_token_id, self.end_id
        )
        return {"input_ids": ids} if turns[-1][1] is None else {"input_ids": ids, "labels": labels}

    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens before the first answer, pictures' places not counted, and from there on."""
        words = row["input_ids"] != self.config.image_token_id
        if "labels" not in row:
            return int(words.sum()), 0
        answered = np.flatnonzero(row["labels"] != IGNORE)
        first = answered[0] if len(answered) else len(words)
        return int(words[:first].sum()), int(words[first:].sum())

    def batch(
        self, rows: Sequence[Row], prompt: int, response: int = 0, *, training: bool = True
    ) -> dict[str, np.ndarray]:
        """See `BaseProcessor`: ``prompt`` and ``response`` do not count the pictures' places."""
        config = self.config
        places = max(int((row["input_ids"] == config.image_token_id).sum()) for row in rows)
        kinds = ("image",) * max(1, places // config.slots)
        shapes = config.batch(len(rows), prompt, response, kinds, training=training)
        return self.pad(rows, {key: shapes[key].shape[1] for key in rows[0]})

    def decode(self, ids: np.ndarray) -> list[str]:
        """See `BaseProcessor`; an answer ends where the template's next turn begins, too."""
        texts, follows = super().decode(ids), NEXT.get(self.config.conversation)
        return [text.partition(follows)[0].strip() for text in texts] if follows else texts

    # Media

    def given(self, row: Given, name: str) -> list[Medium]:
        """The pictures of one row: one, several, or none."""
        if isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 4):
            return [("image", picture) for picture in row]
        return [("image", row)]

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """See `ImageTextProcessor`: pixel_values are [N, H, W, 3] however many pictures there are."""
        arrays = super().media(media, name, rng)
        return {key: x if x.ndim == (3 if key.endswith(SCALE) else 4) else x[None] for key, x in arrays.items()}

    def stack(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The media arrays of rows -> those of a batch; rows with fewer pictures are filled up with zeros."""
        most = max(len(next(iter(row.values()))) for row in rows)
        filled = []
        for row in rows:
            more = {key: np.zeros((most - len(x), *x.shape[1:]), x.dtype) for key, x in row.items()}
            more |= {key: np.broadcast_to(BLANK, x.shape) for key, x in more.items() if key.endswith(SCALE)}
            filled.append({key: np.concatenate([x, more[key]]) for key, x in row.items()})
        return super().stack(filled)

    def media_of(self, rows: Sequence[Given]) -> dict[str, np.ndarray]:
        """See `BaseProcessor`; rows may have different numbers of pictures."""
        found = [self.media(self.given(row, f"image {n}"), f"image {n}") for n, row in enumerate(rows)]
        return all_numbers(self.stack(found))

    def resizing(self, how: str) -> "LlavaProcessor":
        """See `BaseProcessor`: pictures that are cut or padded are made in the exact way alone."""
        if how == "exact":
            return self
        raise ValueError(f"config.data.resize is {how!r}: this system cuts or pads its pictures; it is 'exact'")
