"""Samples to batches of few static shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructblip_jax.data.buckets import Shape, assign
from instructblip_jax.processors.instructblip import IGNORE, Processor

Sample = Mapping[str, np.ndarray]
"""pixel_values [H, W, 3], if any, and the unpadded token rows of `Processor.encode`."""


def grid(instruction_lengths: Sequence[int], response_lengths: Sequence[int]) -> list[Shape]:
    """Any of the one with any of the other, by size."""
    pairs = [(a, b) for a in instruction_lengths for b in response_lengths]
    return sorted(pairs, key=lambda pair: (sum(pair), pair))


def text_lengths(row: Sample, processor: Processor) -> Shape:
    """Tokens of a sample's instruction (the longer of its two rows) and of its response (0 without one)."""
    response = int(np.sum(row["labels"] != IGNORE)) if "labels" in row else 0
    joined = response if processor.decoder_only else 0  # responses that follow in input_ids
    return max(len(row["input_ids"]) - joined, len(row.get("qformer_input_ids", ()))), response


def collate(
    samples: Sequence[Sample],
    processor: Processor,
    *,
    shapes: Sequence[Shape],
    blank_image: bool = False,
    own: Sequence[int] | None = None,
) -> dict[str, Any]:
    """B samples -> the contract's batch. Both instruction rows take one length, so that shapes stay few, but the
    Q-Former's none beyond what it can read.

    ``shapes``: the static lengths of instruction and response that there are; the cheapest that holds all samples is
    taken. ``blank_image``: zeros for pixels, the mean colour of the processor. ``own``: the rows to assemble (default:
    all); lengths are those that all samples need, and the other samples need no pixels. Samples without pixels give a
    batch without them. Raises ValueError where no shape is large enough.
    """
    rows = [{key: value for key, value in sample.items() if key != "pixel_values"} for sample in samples]
    longest = np.max([text_lengths(row, processor) for row in rows], axis=0)
    number = assign(longest[None], shapes)[0]
    if number < 0:
        raise ValueError(
            f"data.instruction_lengths and data.response_lengths go up to {tuple(np.max(shapes, axis=0).tolist())}: "
            f"a row has {longest[0]} + {longest[1]} tokens; add lengths that hold it"
        )
    prompt, answer = shapes[number]
    lengths = dict.fromkeys((key for key in rows[0] if key != "labels"), prompt)
    if "qformer_input_ids" in lengths:
        lengths["qformer_input_ids"] = min(prompt, processor.qformer_limit)
    if "labels" in rows[0]:
        lengths["labels"] = answer
        if processor.decoder_only:
            lengths["input_ids"] += lengths["labels"]
            lengths["labels"] = lengths["input_ids"]
    if own is not None:
        samples, rows = [samples[n] for n in own], [rows[n] for n in own]
    if "pixel_values" not in samples[0]:
        return processor.pad(rows, lengths)
    pixels = np.stack([sample["pixel_values"] for sample in samples])
    return {"pixel_values": np.zeros_like(pixels) if blank_image else pixels, **processor.pad(rows, lengths)}
