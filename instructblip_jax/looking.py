"""The attention of queries to a picture: the public `look` and `overlay`."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from instructblip_jax import drawing
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor, Given
from instructblip_jax.systems.maps import QUERIES, WORDS
from instructblip_jax.systems.protocol import Looks

LENGTH_STEP = 16
"""Instructions are padded to a multiple of this many tokens, so that few programs are compiled."""
WITH, WITHOUT, ALWAYS = "with the instruction", "without the instruction", "whatever the instruction"
"""Names of views."""


def look(
    model: Model, processor: BaseProcessor, image: Given, instruction: str | None = None, *, words: bool = False
) -> np.ndarray:
    """The attention that each query pays to each patch of a picture: float32 [Q, grid, grid], or [F, Q, grid, grid] of
    the F frames of a video.

    It is that of the last cross-attention, averaged over its heads. A query's map sums to 1 less its attention to what
    is no patch: the class token of a tower, and the latents themselves in a resampler.

    Args:
      image: a picture (path, bytes, PIL image, uint8 array [H, W, 3]), a video's file, or its frames.
      instruction: read by the queries where the system shows it to them (InstructBLIP, X-InstructBLIP, BLIP-2's first
        stage). None shows them the picture alone.
      words: the maps of the instruction's tokens in place of the queries'. BLIP and ALBEF have these alone, and need no
        ``words``. In Flamingo and Idefics a token reads the picture through the latents, and its map is their maps,
        each by the attention that the token pays to that latent in the last gated layer; a token that sees no picture
        has zeros.

    Raises ValueError for a system without such an attention (LLaVA, Frozen), or whose readers are others than those
    that are asked for; UnusableImageError for a picture that cannot be read.
    """
    found = _found(model, processor, image, instruction)
    wanted = WORDS if words or found.keys() == {WORDS} else QUERIES
    if wanted in found:
        return found[wanted]
    if instruction is None:
        raise ValueError(f"{model.directory}: the words of a text read the picture here; an instruction is needed")
    raise ValueError(f"{model.directory}: words: queries alone read the picture in this system")


def views(
    model: Model, processor: BaseProcessor, image: Given, instruction: str, *, length: int = 0
) -> dict[str, np.ndarray]:
    """Name -> the maps of `look`: two views where the queries read the instruction, with it and, by the same weights,
    without it; otherwise one. ``length``: the instruction is padded to this many tokens at least, so that one program
    serves all of them. Raises what `look` raises."""
    found = _found(model, processor, image, instruction, length)
    if QUERIES not in found:
        return {WITH: found[WORDS]}
    if not _config(model).queries_read_text:
        return {ALWAYS: found[QUERIES]}
    return {WITH: found[QUERIES], WITHOUT: look(model, processor, image)}


def _config(model: Model) -> Looks:
    """The configuration of a system that looks at pictures. Raises ValueError for any other."""
    if isinstance(model.config, Looks):
        return model.config
    if model.has("classify"):
        raise ValueError(
            f"{model.directory}: a form that sorts into classes has no maps; one that compares or writes has"
        )
    raise ValueError(
        f"{model.directory}: there is no attention to show: no query of this system reads a picture's patches, which "
        "pass through a projection into the text, or are pooled to a few vectors, the same way for every picture"
    )


def _found(
    model: Model, processor: BaseProcessor, image: Given, instruction: str | None, least: int = 0
) -> dict[str, np.ndarray]:
    """The maps of all readers of one picture, words without those of the padding."""
    _config(model)
    rows, count = processor.rows([image], 1), 0
    if [kind for kind, _ in processor.given(rows[0], "image")][1:] and processor.FRAMES == 0:
        raise ValueError("several pictures are given; one is looked at")
    batch = processor.media_of(rows)
    if instruction is not None:
        texts = processor.checked([instruction], "instructions", 1)
        (encoded,) = processor.encoded(rows, texts, [None])
        count = processor.lengths(encoded)[0]
        length = max(-(-count // LENGTH_STEP) * LENGTH_STEP, least)
        batch = batch | processor.batch([encoded], length, training=False)
    found = {name: maps[0] for name, maps in model.look(batch).items()}
    return {name: maps[..., :count, :, :] if name == WORDS else maps for name, maps in found.items()}


def overlay(
    processor: BaseProcessor,
    image: Given,
    maps: np.ndarray | Mapping[str, np.ndarray],
    *,
    each: bool = False,
    title: str = "",
) -> Image.Image:
    """A picture as the model sees it, and beside it the same under the mean of the maps: the brighter, the more
    attention. A notebook shows it.

    ``maps``: what `look` returns, or several by name, drawn side by side; beside two of them their difference, warm
    where the first has more, blue where it has less. ``each``: below them all maps one by one,
    each by its own largest value. ``title``: stands above. Raises ValueError for maps of another shape.
    """
    named: Mapping[str, np.ndarray] = maps if isinstance(maps, Mapping) else {"": maps}
    return drawing.sheet(seen(processor, image), named, each=each, title=title)


def seen(processor: BaseProcessor, image: Given) -> Sequence[Image.Image]:
    """A picture, or the frames of a video, as the model sees them: resized, cut or padded to a square."""
    (row,) = processor.rows([image], 1)
    return [processor.seen(content) for _, content in processor.given(row, "image")]
