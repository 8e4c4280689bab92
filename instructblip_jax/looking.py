"""The attention of queries to an image: the public `look` and `overlay`."""

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
    """The attention of each query to each patch of an image: float32 [Q, grid, grid], or [F, Q, grid, grid] for the F
    frames of a video.

    It is the last cross-attention, averaged over its heads. A query's map sums to 1 minus its attention to anything
    other
    than patches: the class token of a tower, and the latents themselves in a resampler.

    Args:
      image: an image (path, bytes, PIL image, uint8 array [H, W, 3]), a video file, or its frames.
      instruction: read by the queries, if the system shows it to them (InstructBLIP, X-InstructBLIP, BLIP-2's first
        stage). None shows them the image only.
      words: return the maps of the instruction's tokens instead of the queries'. BLIP and ALBEF only have token maps,
        and ignore ``words``. In Flamingo and Idefics a token attends to the image through the latents: its map is the
        latents' maps, weighted by its attention to each latent in the last gated layer. A token that sees no image has
        zeros.

    Raises ValueError for a system without such attention (LLaVA, Frozen), or without the requested kind of maps;
    UnusableImageError for an image that cannot be read.
    """
    found = _found(model, processor, image, instruction)
    wanted = WORDS if words or found.keys() == {WORDS} else QUERIES
    if wanted in found:
        return found[wanted]
    if instruction is None:
        raise ValueError(f"{model.directory}: the tokens of a text read the image here; an instruction is needed")
    raise ValueError(f"{model.directory}: words: this system has maps of queries only")


def views(
    model: Model, processor: BaseProcessor, image: Given, instruction: str, *, length: int = 0
) -> dict[str, np.ndarray]:
    """Name -> the maps of `look`. There are two views if the queries read the instruction, with and without it (same
    weights); otherwise one. ``length``: the instruction is padded to at least this many tokens, so that one program
    serves all instructions. Raises the errors of `look`."""
    found = _found(model, processor, image, instruction, length)
    if QUERIES not in found:
        return {WITH: found[WORDS]}
    if not _config(model).queries_read_text:
        return {ALWAYS: found[QUERIES]}
    return {WITH: found[QUERIES], WITHOUT: look(model, processor, image)}


def _config(model: Model) -> Looks:
    """The configuration of a system that has attention maps. Raises ValueError for any other."""
    if isinstance(model.config, Looks):
        return model.config
    if model.has("classify"):
        raise ValueError(f"{model.directory}: forms that classify have no attention maps")
    raise ValueError(
        f"{model.directory}: there is no attention to show: no query of this system attends to image patches, which "
        "are projected into the text, or pooled to a few vectors in the same way for every image"
    )


def _found(
    model: Model, processor: BaseProcessor, image: Given, instruction: str | None, least: int = 0
) -> dict[str, np.ndarray]:
    """The maps of all queries or tokens for one image, without those of padding."""
    _config(model)
    rows, count = processor.rows([image], 1), 0
    if [kind for kind, _ in processor.given(rows[0], "image")][1:] and processor.FRAMES == 0:
        raise ValueError("several pictures are given; one is needed")
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
    """An image as the model sees it, next to a copy with the mean of the maps drawn over it: the brighter, the more
    attention. A notebook displays the result.

    ``maps``: the result of `look`, or several results by name, drawn side by side. Two of them are followed by their
    difference, warm where the first has more, blue where it has less. ``each``: also draw all maps one by one below,
    each scaled by its own maximum. ``title``: text above the image. Raises ValueError for maps of another shape.
    """
    named: Mapping[str, np.ndarray] = maps if isinstance(maps, Mapping) else {"": maps}
    return drawing.sheet(seen(processor, image), named, each=each, title=title)


def seen(processor: BaseProcessor, image: Given) -> Sequence[Image.Image]:
    """An image, or the frames of a video, as the model sees them: resized, and cropped or padded to a square."""
    (row,) = processor.rows([image], 1)
    return [processor.seen(content) for _, content in processor.given(row, "image")]
