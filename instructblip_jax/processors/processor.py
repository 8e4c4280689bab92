"""The public Processor: pictures, instructions and responses -> the contract's batch of NumPy arrays."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from instructblip_jax.files import read_json
from instructblip_jax.processors.image import ImageProcessor, Picture, UnusableImageError
from instructblip_jax.processors.text import TextTokenizer

MAX_INSTRUCTION, MAX_RESPONSE = 128, 256
"""The original model's text limits, in tokens: instructions lose their beginning, responses their end."""
IGNORE = -100

Row = Mapping[str, np.ndarray]


class Processor:
    """Image processor, language-model tokenizer and (InstructBLIP) the Q-Former's BERT tokenizer of a checkpoint."""

    def __init__(self, image: ImageProcessor, tokenizer: TextTokenizer, end_id: int, qformer: TextTokenizer | None):
        self.image, self.tokenizer, self.end_id, self.qformer = image, tokenizer, end_id, qformer
        self.qformer_limit = MAX_INSTRUCTION
        """Instruction tokens that the Q-Former reads, the last ones."""

    @classmethod
    def from_pretrained(cls, model: str | Path) -> "Processor":
        """Read a model directory in the Hugging Face layout. Raises FileNotFoundError or ValueError naming the file."""
        directory = Path(model)
        if not directory.is_dir():
            raise FileNotFoundError(f"{model}: no such model directory")
        config = read_json(directory / "config.json")
        family = (config.get("text_config") or {}).get("model_type", "t5")
        if family != "t5":
            raise ValueError(f"{directory / 'config.json'}: text_config.model_type is {family!r}; only t5 is read here")
        tokenizer = TextTokenizer(directory)
        has_text = config.get("model_type") != "blip-2"
        qformer = TextTokenizer(directory / "qformer_tokenizer") if has_text else None
        image = ImageProcessor.from_pretrained(directory)
        side = (config.get("vision_config") or {}).get("image_size", 224)  # of the public vision towers
        if (image.height, image.width) != (side, side):
            raise ValueError(
                f"{directory / 'preprocessor_config.json'}: size is {image.height} x {image.width}, "
                f"but config.json's vision_config.image_size is {side}"
            )
        processor = cls(image, tokenizer, tokenizer.end_id(directory), qformer)
        positions = (config.get("qformer_config") or {}).get("max_position_embeddings", 512)
        processor.qformer_limit = min(MAX_INSTRUCTION, positions)
        return processor

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        instructions: str | Sequence[str],
        responses: str | Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """B pictures, B instructions and, for training, B responses -> a batch padded to its longest row.

        pixel_values float32 [B, H, W, 3]; qformer_input_ids, qformer_attention_mask int32 [B, Tq] (absent for BLIP-2);
        input_ids, attention_mask int32 [B, T]; labels int32 [B, To], -100 where no loss is taken (if responses).
        Raises UnusableImageError, or ValueError naming the row.
        """
        single = isinstance(images, (str, os.PathLike, bytes, Image.Image, np.ndarray))
        pictures = cast(list[Picture], [images] if single else list(cast(Sequence[Picture], images)))
        if not pictures:
            raise ValueError("no image is given; at least one is needed")
        texts = _texts("instructions", instructions, len(pictures))
        answers = [None] * len(texts) if responses is None else _texts("responses", responses, len(pictures))
        pixels = [self.image(picture, _name(picture, n)) for n, picture in enumerate(pictures)]
        rows = [self.encode(text, answer) for text, answer in zip(texts, answers, strict=True)]
        return {"pixel_values": np.stack(pixels), **self.pad(rows)}

    def encode(self, instruction: str, response: str | None = None) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids, qformer_input_ids, labels."""
        row = {"input_ids": self.tokenizer.encode(instruction, MAX_INSTRUCTION, keep="end")}
        if self.qformer is not None:
            row["qformer_input_ids"] = self.qformer.encode(instruction, self.qformer_limit, keep="end")
        if response is not None:
            row["labels"] = self.tokenizer.encode(response, MAX_RESPONSE, keep="start")
        return row

    def pad(self, rows: Sequence[Row], lengths: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """Token rows -> arrays [B, n] with masks, padded on the right to ``lengths[key]`` or to the longest row."""
        batch = {}
        for key in rows[0]:
            longest = max(len(row[key]) for row in rows)
            length = longest if lengths is None else lengths[key]
            if length < longest:
                raise ValueError(f"{key}: a row of {longest} tokens does not fit the length {length}")
            fill = IGNORE if key == "labels" else self._pad_id(key)
            batch[key] = np.full((len(rows), length), fill, np.int32)
            for n, row in enumerate(rows):
                batch[key][n, : len(row[key])] = row[key]
            if key != "labels":
                counts = np.array([len(row[key]) for row in rows])
                mask = (np.arange(length) < counts[:, None]).astype(np.int32)
                batch[key.replace("input_ids", "attention_mask")] = mask
        return batch

    def decode(self, ids: np.ndarray) -> list[str]:
        """Generated ids int [B, T] -> one text a row, up to its end token."""
        texts = []
        for row in ids:
            ends = np.flatnonzero(row == self.end_id)
            texts.append(self.tokenizer.decode(row[: ends[0]] if len(ends) else row))
        return texts

    def _pad_id(self, key: str) -> int:
        tokenizer = self.qformer if key.startswith("qformer") else self.tokenizer
        assert tokenizer is not None
        return tokenizer.pad_id


def _name(picture: Picture, index: int) -> str | None:
    return None if isinstance(picture, (str, Path)) else f"image {index}"


def _texts(what: str, texts: str | Sequence[str], count: int) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    if len(texts) != count:
        raise ValueError(f"{count} images but {len(texts)} {what}; give one for each image")
    for n, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{what}[{n}] is {text!r}; a text is needed")
    return texts


__all__ = ["Processor", "UnusableImageError"]
