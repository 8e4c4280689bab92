"""Samples -> batches with few static shapes."""

from collections.abc import Mapping, Sequence

import numpy as np

from instructblip_jax.data.buckets import Shape, assign
from instructblip_jax.processors.base import BaseProcessor, Row

Arrays = Mapping[str, np.ndarray]


def grid(instruction_lengths: Sequence[int], response_lengths: Sequence[int]) -> list[Shape]:
    """Every instruction length with every response length, by size."""
    pairs = [(a, b) for a in instruction_lengths for b in response_lengths]
    return sorted(pairs, key=lambda pair: (sum(pair), pair))


def collate(
    texts: Sequence[Row],
    media: Sequence[Arrays],
    processor: BaseProcessor,
    *,
    shapes: Sequence[Shape],
    lengths: Sequence[Shape] = (),
    kinds: tuple[str, ...] = ("image",),
    blank: bool = False,
    own: Sequence[int] | None = None,
    identities: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Samples -> this host's rows of a training batch, as described by `config.batch`.

    Args:
      texts: the token rows of all B samples, unpadded: `BaseProcessor.encode`.
      media: the media arrays of the rows ``own``: `BaseProcessor.media`. () gives a batch without media.
      shapes: the static lengths of instruction and response; the cheapest that fits all B samples is used.
      lengths: tokens of each sample's instruction and response; by default the processor's.
      kinds: the kinds of media that the batch has room for in each row (`BaseProcessor.static_kinds`).
      blank: show the blank medium for all.
      own: indices of the rows to assemble; None means all.
      identities: `Record.identity` of all B samples, for systems that use it (`BaseProcessor.identity_key`).

    Raises ValueError if no shape is large enough.
    """
    longest = np.max(lengths or [processor.lengths(row) for row in texts], axis=0)
    number = assign(longest[None], shapes)[0]
    if number < 0:
        raise ValueError(
            f"data.instruction_lengths and data.response_lengths go up to {tuple(np.max(shapes, axis=0).tolist())}: "
            f"a row has {longest[0]} + {longest[1]} tokens; add lengths that fit it"
        )
    rows = range(len(texts)) if own is None else own
    prompt, response = shapes[number]
    batch = processor.batch([texts[n] for n in rows], prompt, response, kinds)
    if processor.identity_key:
        batch[processor.identity_key] = np.array([identities[n] for n in rows], np.int32)
    if not media:
        return batch
    arrays = processor.stack(media, kinds)
    return {**(processor.blank(arrays) if blank else arrays), **batch}
