"""Image-text comparison: the public `embed_images`, `embed_texts`, `similarity` and `match`.

Lists of any length are processed in chunks of `ROWS`, so that few programs are compiled.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor, Given

ROWS = 64
"""Number of images, texts or pairs per call."""
LENGTH_STEP = 8
"""Texts are padded to a multiple of this many tokens, or to the system's maximum."""


def embed_images(model: Model, processor: BaseProcessor, images: Given | Sequence[Given] | None) -> np.ndarray:
    """Images -> unit vectors, float32 [B, E], or [B, Q, E] if the system has Q query embeddings (BLIP-2).

    ``images``: one image or a list, as in `generate`. Raises ValueError for a system that does not compare,
    UnusableImageError for an image that cannot be read.
    """
    check(model, processor)
    rows = processor.rows(images, None)
    parts = (model.embed_media(model.encode(processor.media_of(part))) for part in _filled(rows))
    return np.concatenate(list(parts))[: len(rows)]


def embed_texts(model: Model, processor: BaseProcessor, texts: str | Sequence[str]) -> np.ndarray:
    """Texts -> unit vectors, float32 [N, E]. Each is used unchanged, up to the system's maximum number of tokens.

    Raises ValueError for a system that does not compare, or an empty text.
    """
    check(model, processor)
    rows = text_rows(processor, _texts(texts), clean=False)
    length = text_length(processor, rows)
    parts = (model.embed_texts(text_batch(processor, part, length)) for part in _filled(rows))
    return np.concatenate(list(parts))[: len(rows)]


def similarity(
    model: Model, processor: BaseProcessor, images: Given | Sequence[Given] | None, texts: str | Sequence[str]
) -> np.ndarray:
    """Cosine of each of B images with each of N texts, float32 [B, N]; the maximum over the queries if the system has
    several embeddings per image. Raises as `embed_images` and `embed_texts` do."""
    return cosines(embed_images(model, processor, images), embed_texts(model, processor, texts))


def cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Unit vectors of images [B, (Q,) E] and texts [N, E] -> float32 [B, N]."""
    if images.ndim == 2:
        return images @ texts.T
    found = np.empty((len(images), len(texts)), np.float32)
    for n, queries in enumerate(images):  # [Q, N] of one image at a time: all of them would be Q times the result
        found[n] = (queries @ texts.T).max(axis=0)
    return found


def match(
    model: Model, processor: BaseProcessor, images: Given | Sequence[Given] | None, texts: str | Sequence[str]
) -> np.ndarray:
    """The probability that each image and text match, float32 [B].

    ``images``, ``texts``: B each, row by row, or one of either for all of the other. An image that is given several
    times is encoded once per chunk. Raises as `embed_images` and `embed_texts` do, and ValueError for counts that do
    not match.
    """
    check(model, processor)
    said = _texts(texts)
    rows = processor.rows(images, None)
    if len(rows) == 1:
        rows *= len(said)
    elif len(said) == 1:
        said *= len(rows)
    if len(rows) != len(said):
        raise ValueError(f"{len(rows)} images but {len(said)} texts; give one text for each image, or one of either")
    tokens = text_rows(processor, said, clean=False)
    length = text_length(processor, tokens)
    found = []
    for part, own in zip(_filled(rows), _filled(tokens), strict=True):
        distinct = {id(row): row for row in part}
        place = {key: n for n, key in enumerate(distinct)}
        shown = next(_filled(list(distinct.values())))
        media = model.encode(processor.media_of(shown), place=np.array([place[id(row)] for row in part]))
        found.append(probability(model.match(media, text_batch(processor, own, length))))
    return np.concatenate(found)[: len(rows)]


def probability(logits: np.ndarray) -> np.ndarray:
    """Logits [B, 2] -> the probability of the second, float32 [B]."""
    return (1.0 / (1.0 + np.exp((logits[:, 0] - logits[:, 1]).astype(np.float64)))).astype(np.float32)


def check(model: Model, processor: BaseProcessor) -> None:
    """Raise ValueError for a system that does not compare images with texts."""
    if not model.has("embed_media") or not hasattr(processor, "caption_row"):
        raise ValueError(
            f"{model.directory}: this model does not compare images with texts; BLIP and ALBEF in their pre-training "
            "and retrieval forms and BLIP-2's first stage do (architectures in config.json)"
        )


def text_rows(processor: Any, texts: Sequence[str], *, clean: bool) -> list[dict[str, np.ndarray]]:
    """Token rows of texts. ``clean``: clean them like captions in the system's paper."""
    return [{"input_ids": processor.caption_row(text, clean=clean)} for text in texts]


def text_length(processor: Any, rows: Sequence[dict[str, np.ndarray]]) -> int:
    """A static length that fits all rows."""
    longest = max(processor.lengths(row)[0] for row in rows)
    return min(-(-longest // LENGTH_STEP) * LENGTH_STEP, max(longest, processor.token_limit(training=False)))


def text_batch(processor: BaseProcessor, rows: Sequence[dict[str, np.ndarray]], length: int) -> dict[str, np.ndarray]:
    """The texts of a batch without images, int32 [N, length] each."""
    return processor.batch(rows, length, training=False)


def _texts(texts: str | Sequence[str]) -> list[str]:
    found = [texts] if isinstance(texts, str) else list(texts)
    for n, text in enumerate(found):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"texts[{n}] is {text!r}; a text is needed")
    if not found:
        raise ValueError("no text is given; at least one is needed")
    return found


def _filled(rows: Sequence[Any]) -> Iterator[list[Any]]:
    """The rows in chunks of `ROWS`; a single chunk has the next power of two instead. The last is padded with its first
    row."""
    size = min(ROWS, 1 << (len(rows) - 1).bit_length())
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        yield part + [rows[0]] * (size - len(part))
