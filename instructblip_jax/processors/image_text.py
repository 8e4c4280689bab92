"""The processor of systems that read pictures and one tokenizer's text, and answer after it or in a row of its own."""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instructblip_jax.files import read_json
from instructblip_jax.pixels import BLANK, SCALE, blank
from instructblip_jax.processors.augment import AugmentConfig
from instructblip_jax.processors.base import IGNORE, BaseProcessor, Medium, Row
from instructblip_jax.processors.fast_resize import FastImageProcessor
from instructblip_jax.processors.image import CroppedImageProcessor, ImageProcessor, Picture, open_image, settings
from instructblip_jax.processors.tokenizer import TextTokenizer


class ImageTextProcessor(BaseProcessor):
    """Image processor and language-model tokenizer of a checkpoint."""

    VIDEO: tuple[str, ...] = ()
    """Model types whose image settings are those of a video processor."""
    IMAGE: type[ImageProcessor] = ImageProcessor
    ROWLESS: int = 0
    """Tokens of the vocabulary, its last ones, that the model has no rows for, and never reads or writes."""
    TAGS: tuple[str, ...] = ()
    """Tokens that the processor alone writes; in a text they are words like any others."""
    BARE: bool = False
    """True if texts behind a special token begin without "▁" (`TextTokenizer`)."""

    def __init__(
        self, config: Any, image: ImageProcessor, tokenizer: TextTokenizer, *, end_id: int, stop_ids: frozenset[int]
    ):
        self.config, self.image, self.tokenizer = config, image, tokenizer
        self.end_id, self.stop_ids = end_id, stop_ids

    @classmethod
    def from_directory(cls, directory: Path, config: Any) -> Any:
        """Read the tokenizer and image settings of a directory in the Hugging Face layout.

        ``config``: its `systems.prefix.PrefixConfig`, with the size of pictures that is wanted. Raises
        FileNotFoundError or ValueError naming the file.
        """
        path = directory / "config.json"
        tokenizer = TextTokenizer(directory, cls.TAGS, bare=cls.BARE)
        tokenizer.check_fits(config.vocab_size + cls.ROWLESS, f"{path}: text_config.vocab_size")
        end = tokenizer.end_id(directory)
        stops = frozenset({end, *config.more_end_ids})
        return cls(config, cls.images(directory, config), tokenizer, end_id=end, stop_ids=stops)

    @classmethod
    def images(cls, directory: Path, config: Any) -> ImageProcessor:
        """The image settings of a directory, for pictures of the configuration's size. Raises as `from_directory`."""
        path = directory / "config.json"
        video = read_json(path).get("model_type") in cls.VIDEO
        image = cls.IMAGE.from_pretrained(directory, video=video)
        side = config.stored_image_size or config.vision.image_size
        if (image.height, image.width) != (side, side):
            raise ValueError(
                f"{settings(directory, video=video)[0]}: size is {image.height} x {image.width}, "
                f"but config.json's vision_config.image_size is {side}"
            )
        return image.at(config.vision.image_size)

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids and, with a response, labels.

        ``pictures`` stand before the text, whatever their number.
        """
        prompt = self.tokenizer.encode(instruction)
        if response is None or self.config.decoder_only:
            return self.continued(prompt, response)
        return {"input_ids": prompt, "labels": self.response(response)}

    def continued(self, prompt: np.ndarray, response: str | None) -> dict[str, np.ndarray]:
        """The token rows of a prompt int32 [n] and of a response behind it, which alone is learnt; without a response
        those of the prompt."""
        if response is None:
            return {"input_ids": prompt}
        answer = self.response(response)
        labels = np.concatenate([np.full_like(prompt, IGNORE), answer])
        return {"input_ids": np.concatenate([prompt, answer]), "labels": labels}

    def response(self, text: str) -> np.ndarray:
        """A response's tokens with the end token, int32 [n]."""
        if not self.config.decoder_only:
            return self.tokenizer.encode(text)
        # The begin token stands before the instruction alone.
        return np.append(self.tokenizer.encode(text, special=False), np.int32(self.end_id))

    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens of a sample's instruction and of its response."""
        response = int(np.sum(row["labels"] != IGNORE)) if "labels" in row else 0
        joined = response if self.config.decoder_only else 0  # responses that follow in input_ids
        return len(row["input_ids"]) - joined, response

    def pad(self, rows: Sequence[Row], lengths: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """Token rows -> arrays [B, n] with masks, padded on the right to ``lengths[key]`` or to the longest row."""
        batch = {}
        for key in rows[0]:
            longest = max(len(row[key]) for row in rows)
            length = longest if lengths is None else lengths[key]
            if length < longest:
                raise ValueError(f"{key}: a row of {longest} tokens does not fit the length {length}")
            fill = IGNORE if key == "labels" else self.pad_id(key)
            batch[key] = np.full((len(rows), length), fill, np.int32)
            for n, row in enumerate(rows):
                batch[key][n, : len(row[key])] = row[key]
            if key != "labels":
                counts = np.array([len(row[key]) for row in rows])
                mask = (np.arange(length) < counts[:, None]).astype(np.int32)
                batch[key.replace("input_ids", "attention_mask")] = mask
        return batch

    def pad_id(self, key: str) -> int:
        """The id that fills the rows of a batch key."""
        return self.tokenizer.pad_id

    def ignore(self, batch: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """See `BaseProcessor`."""
        batch["labels"][rows] = IGNORE

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """pixel_values uint8: [H, W, 3] for one picture, else [F, H, W, 3] for several, or for a video's frames; and
        their scale float32 [3, 3] or [F, 3, 3], by which they become numbers (`instructblip_jax.pixels`). Where no
        scale is exact, pixel_values are float32 and normalised.

        ``rng`` draws what `augment` says, anew for each picture, but once for all frames of a video.
        """
        scale = self.image.scale
        seed = int(rng.integers(1 << 62)) if rng is not None and self.augments else None
        pictures = []
        for number, (kind, content) in enumerate(media):
            if kind not in self.KINDS:
                raise ValueError(f"{name}: holds {kind}; this system reads {', '.join(self.KINDS)}")
            shown = f"{name}, frame {number}" if name and kind == "frame" else name
            drawn = None if seed is None else np.random.default_rng((seed, 0 if kind == "frame" else number))
            pixels = self._pixels(content, None if isinstance(content, (str, os.PathLike)) else shown, drawn)
            pictures.append(self.image.normalised(pixels) if scale is None else pixels)
        if not pictures:
            shape = (self.image.height, self.image.width, 3)
            pictures = [np.zeros(shape, np.float32 if scale is None else np.uint8)]
            scale = None if scale is None else BLANK
        alone = len(pictures) == 1 and [kind for kind, _ in media] != ["frame"]
        arrays = {"pixel_values": pictures[0] if alone else np.stack(pictures)}
        if scale is not None:
            arrays["pixel_values" + SCALE] = scale if alone else np.stack([scale] * len(pictures))
        return arrays

    def _pixels(self, content: Picture, name: str | None, rng: np.random.Generator | None) -> np.ndarray:
        """One picture uint8 [H, W, 3], drawn by ``rng`` if that is given."""
        if rng is None:
            return self.image.pixels(content, name)
        return self.augment(np.asarray(open_image(content, name)), self.image.pixels, rng)

    def seen(self, picture: Picture) -> Image.Image:
        """See `BaseProcessor`."""
        return Image.fromarray(self.image.pixels(picture))

    def blank(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The processor's mean colour, which normalises to zero."""
        return blank(arrays)

    def settings(self) -> Mapping[str, Any]:
        """See `BaseProcessor`."""
        # The exact way has no name here, so that features that earlier versions cached are found.
        fast = {"resize": "fast"} if isinstance(self.image, FastImageProcessor) else {}
        return {"image": dataclasses.asdict(self.image), **fast}

    def augmenting(self, augment: AugmentConfig) -> "ImageTextProcessor":
        """See `BaseProcessor`."""
        other = copy.copy(self)
        other.augment = augment
        return other

    def resizing(self, how: str) -> "ImageTextProcessor":
        """See `BaseProcessor`; pictures that are cut or padded are made in the exact way alone."""
        if issubclass(self.IMAGE, CroppedImageProcessor):
            if how == "exact":
                return self
            raise ValueError(f"config.data.resize is {how!r}: this system cuts or pads its pictures; it is 'exact'")
        kind = FastImageProcessor if how == "fast" else ImageProcessor
        other = copy.copy(self)
        other.image = kind(**{field.name: getattr(self.image, field.name) for field in dataclasses.fields(self.image)})
        return other
