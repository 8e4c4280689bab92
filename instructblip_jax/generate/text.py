"""Answers in words: the public `generate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LENGTH_STEP = 16
"""Instructions are padded to multiples of so many tokens, so that few programs are compiled."""


def generate(
    model: Any, processor: Any, images: Any, instructions: str | Sequence[str], *, max_new_tokens: int = 64
) -> list[str]:
    """Greedy answers, one a pair of image and instruction.

    ``images``: one picture for all instructions, or one each (paths, bytes, PIL images, uint8 arrays [H, W, 3]). A
    picture that is given several times is encoded once. Raises UnusableImageError for a picture that cannot be read,
    ValueError for an empty instruction or counts that do not match.
    """
    texts = [instructions] if isinstance(instructions, str) else list(instructions)
    single = isinstance(images, (str, Path, bytes, Image.Image, np.ndarray))
    pictures = [images] * len(texts) if single else list(images)
    if len(pictures) != len(texts) or not texts:
        raise ValueError(f"{len(pictures)} images but {len(texts)} instructions; give one for each image")
    for n, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"instructions[{n}] is {text!r}; a text is needed")
    distinct = {id(picture): picture for picture in pictures}
    place = {key: n for n, key in enumerate(distinct)}
    tokens = model.encode_image(np.stack([processor.image(picture) for picture in distinct.values()]))
    rows = [processor.encode(text) for text in texts]
    longest = max(len(ids) for row in rows for ids in row.values())
    batch = processor.pad(rows, dict.fromkeys(rows[0], -(-longest // LENGTH_STEP) * LENGTH_STEP))
    index = np.array([place[id(picture)] for picture in pictures])
    return processor.decode(model.greedy_ids(tokens[index], batch, max_new_tokens))
