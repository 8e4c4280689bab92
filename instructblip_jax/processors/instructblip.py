"""The public Processor: pictures, instructions and responses -> the contract's batch of NumPy arrays."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from instructblip_jax import hub
from instructblip_jax.files import read_json
from instructblip_jax.processors.image import ImageProcessor, Picture, UnusableImageError, settings
from instructblip_jax.processors.tokenizer import TextTokenizer

TRAINED_INSTRUCTION = 128
"""Tokens of an instruction, its last ones, that the original's Q-Former reads in training."""
IGNORE = -100
FAMILIES = ("t5", "llama", "opt")

Row = Mapping[str, np.ndarray]
Media = Picture | Sequence[Picture]
"""A picture, or the frames of a video."""


class Processor:
    """Image processor, language-model tokenizer and (InstructBLIP) the Q-Former's BERT tokenizer of a checkpoint."""

    def __init__(
        self,
        image: ImageProcessor,
        tokenizer: TextTokenizer,
        qformer: TextTokenizer | None,
        *,
        end_id: int,
        stop_ids: frozenset[int],
        decoder_only: bool,
        qformer_positions: int,
    ):
        self.image, self.tokenizer, self.qformer = image, tokenizer, qformer
        self.end_id = end_id
        """Ends every response in training."""
        self.stop_ids = stop_ids
        """End an answer that is decoded."""
        self.decoder_only = decoder_only
        """Whether a response goes on in the same row as its instruction (LLaMA, OPT), or has its own (T5)."""
        self.qformer_positions = qformer_positions
        """Instruction tokens that the Q-Former can read."""
        self._warned = False

    @classmethod
    def from_pretrained(cls, model: str | Path, *, image_size: int = 0) -> "Processor":
        """Read a directory in the Hugging Face layout, or a hub id's. ``image_size``: pixels along a side of the
        pictures, if not the checkpoint's own; the model has to be loaded with the same.

        Raises FileNotFoundError or ValueError naming the file, or ``image_size`` where patches do not divide it.
        """
        directory = hub.resolve(model)
        path = directory / "config.json"
        config = read_json(path)
        sections = {name: config.get(f"{name}_config") or {} for name in ("vision", "text", "qformer")}
        family = sections["text"].get("model_type", "opt")
        if family not in FAMILIES:
            raise ValueError(f"{path}: text_config.model_type is {family!r}; {', '.join(FAMILIES)} are read here")
        tokenizer = TextTokenizer(directory)
        tokenizer.check_fits(sections["text"].get("vocab_size"), f"{path}: text_config.vocab_size")
        qformer = None
        if config.get("model_type") != "blip-2":
            qformer = TextTokenizer(directory / "qformer_tokenizer")
            rows = sections["qformer"].get("vocab_size", 30523)  # of the public Q-Formers
            qformer.check_fits(rows, f"{path}: qformer_config.vocab_size")
        video = config.get("model_type") == "instructblipvideo"
        image = ImageProcessor.from_pretrained(directory, video=video)
        side = sections["vision"].get("image_size", 224)  # of the public vision towers
        if (image.height, image.width) != (side, side):
            raise ValueError(
                f"{settings(directory, video=video)[0]}: size is {image.height} x {image.width}, "
                f"but config.json's vision_config.image_size is {side}"
            )
        if image_size:
            patch = sections["vision"].get("patch_size", 14)  # of the public vision towers
            if image_size < 0 or image_size % patch:
                raise ValueError(
                    f"image_size {image_size} is no positive multiple of {path}'s vision_config.patch_size {patch}"
                )
            image = image.at(image_size)
        end = tokenizer.end_id(directory)
        stops = {end}
        named = sections["text"].get("eos_token_id")
        if isinstance(named, list):
            stops.update(named)
        elif family == "opt" and isinstance(named, int):
            stops.add(named)  # the newline, which BLIP-2's captions were trained to end with
        return cls(
            image,
            tokenizer,
            qformer,
            end_id=end,
            stop_ids=frozenset(stops),
            decoder_only=family != "t5",
            qformer_positions=sections["qformer"].get("max_position_embeddings") or 512,  # of the public Q-Formers
        )

    @property
    def qformer_limit(self) -> int:
        """Instruction tokens that the Q-Former reads in training."""
        return min(TRAINED_INSTRUCTION, self.qformer_positions)

    def __call__(
        self,
        images: Media | Sequence[Media],
        instructions: str | Sequence[str],
        responses: str | Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """B pictures or videos, B instructions and, for training, B responses -> a batch padded to its longest row.

        pixel_values float32 [B, H, W, 3], or [B, F, H, W, 3] for videos; qformer_input_ids and its mask int32
        [B, Tq] (absent for BLIP-2); input_ids, attention_mask int32 [B, T]: the instruction, and in training of a
        decoder-only model the response after it; labels, if there are responses: int32 [B, To] for T5 and [B, T]
        otherwise, -100 where no loss is taken. Texts are read whole, as `encode` says. Raises UnusableImageError, or
        ValueError naming the row.
        """
        rows = self.rows(images, None)
        texts = self.checked(instructions, "instructions", len(rows))
        answers = [None] * len(texts) if responses is None else self.checked(responses, "responses", len(rows))
        pixels = self.pixels(rows)
        encoded = [self.encode(text, answer) for text, answer in zip(texts, answers, strict=True)]
        return {"pixel_values": pixels, **self.pad(encoded)}

    def rows(self, images: Media | Sequence[Media], count: int | None, *, share: bool = False) -> list[Media]:
        """What users give as images -> one picture or list of frames a row, ``count`` of them if that is known.

        ``share``: a single picture stands for all rows. Raises ValueError for counts that do not match.
        """
        single = isinstance(images, (str, os.PathLike, bytes, Image.Image)) or (
            isinstance(images, np.ndarray) and images.ndim == 3
        )
        rows = cast(list[Media], [images] if single else list(cast(Sequence[Media], images)))
        if single and share and count:
            rows = rows * count
        if not rows:
            raise ValueError("no image is given; at least one is needed")
        if count is not None and len(rows) != count:
            raise ValueError(f"{len(rows)} images but {count} instructions; give one for each image")
        return rows

    def checked(self, texts: str | Sequence[str], what: str, count: int) -> list[str]:
        """``count`` texts. Raises ValueError for another number, or naming the one that is empty."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if len(texts) != count:
            raise ValueError(f"{count} images but {len(texts)} {what}; give one for each image")
        for n, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{what}[{n}] is {text!r}; a text is needed")
        return texts

    def pixels(self, rows: Sequence[Media]) -> np.ndarray:
        """Rows of pictures -> float32 [B, H, W, 3], or of videos -> [B, F, H, W, 3].

        Raises UnusableImageError naming the picture, ValueError for rows of different numbers of frames.
        """
        arrays = []
        for n, row in enumerate(rows):
            if not isinstance(row, (list, tuple)) and not (isinstance(row, np.ndarray) and row.ndim == 4):
                picture = cast(Picture, row)
                arrays.append(self.image(picture, _name(picture, f"image {n}")))
                continue
            frames = [self.image(frame, _name(frame, f"image {n}, frame {f}")) for f, frame in enumerate(row)]
            if not frames:
                raise ValueError(f"image {n} is a video without frames")
            arrays.append(np.stack(frames))
        shapes = sorted({array.shape[:-3] for array in arrays})
        if len(shapes) > 1:
            counts = ", ".join(str(shape[0]) if shape else "a picture" for shape in shapes)
            raise ValueError(f"all rows of a batch need the same number of frames; these have {counts}")
        return np.stack(arrays)

    def encode(self, instruction: str, response: str | None = None, *, training: bool = False) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids, qformer_input_ids, labels.

        Nothing is cut but the Q-Former's row, which loses its beginning: in ``training`` beyond `qformer_limit`, as the
        original's does, and else beyond `qformer_positions`. The first row that does not fit the positions warns.
        """
        row = {"input_ids": self.tokenizer.encode(instruction)}
        if self.qformer is not None:
            limit = self.qformer_limit if training else self.qformer_positions
            row["qformer_input_ids"] = self.qformer.encode(instruction)
            if (count := len(row["qformer_input_ids"])) > limit:
                row["qformer_input_ids"] = self.qformer.encode(instruction, limit)
                if limit == self.qformer_positions:
                    self._warn(count)
        if response is not None:
            row["labels"] = self.response(response)
            if self.decoder_only:
                prompt, answer = row["input_ids"], row["labels"]
                row["input_ids"] = np.concatenate([prompt, answer])
                row["labels"] = np.concatenate([np.full_like(prompt, IGNORE), answer])
        return row

    def _warn(self, count: int) -> None:
        if not self._warned:
            self._warned = True
            limit = self.qformer_positions
            warnings.warn(
                f"an instruction is {count} tokens long, and the Q-Former has {limit} positions: it reads the last "
                f"{limit}, the language model reads all (told for the first such instruction only)",
                stacklevel=3,
            )

    def lengths(self, keys: Iterable[str], length: int) -> dict[str, int]:
        """``length`` tokens for each of a batch's instruction rows, but for the Q-Former's no more than it can read."""
        return {key: min(length, self.qformer_positions) if key == "qformer_input_ids" else length for key in keys}

    def response(self, text: str) -> np.ndarray:
        """A response's tokens with the end token, int32 [n]."""
        if not self.decoder_only:
            return self.tokenizer.encode(text)
        # The begin token stands before the instruction alone.
        return np.append(self.tokenizer.encode(text, special=False), np.int32(self.end_id))

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
            ends = np.flatnonzero(np.isin(row, list(self.stop_ids)))
            texts.append(self.tokenizer.decode(row[: ends[0]] if len(ends) else row))
        return texts

    def settled(self, text: str) -> str:
        """What of the beginning of an answer stays as it is, however the answer goes on."""
        return self.tokenizer.settled(text)

    def _pad_id(self, key: str) -> int:
        tokenizer = self.qformer if key.startswith("qformer") else self.tokenizer
        assert tokenizer is not None
        return tokenizer.pad_id


def _name(picture: Picture, otherwise: str) -> str | None:
    return None if isinstance(picture, (str, os.PathLike)) else otherwise


__all__ = ["Processor", "UnusableImageError"]
