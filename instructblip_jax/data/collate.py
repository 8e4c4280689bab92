"""Samples to batches of few static shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructblip_jax.processors.processor import IGNORE, Processor

Sample = Mapping[str, np.ndarray]
"""pixel_values [H, W, 3] and the unpadded token rows of `Processor.encode`."""


def bucket(longest: int, lengths: Sequence[int], what: str) -> int:
    """The smallest of the static ``lengths`` that holds ``longest`` tokens. Raises ValueError where none does."""
    for length in sorted(lengths):
        if longest <= length:
            return length
    raise ValueError(f"data.{what} {tuple(lengths)}: a row has {longest} tokens; add a length that holds it")


def collate(
    samples: Sequence[Sample],
    processor: Processor,
    *,
    instruction_lengths: Sequence[int],
    response_lengths: Sequence[int],
    blank_image: bool = False,
    own: Sequence[int] | None = None,
) -> dict[str, Any]:
    """B samples -> the contract's batch. Both instruction rows take one length, so that shapes stay few.

    ``blank_image``: zeros for pixels, the mean colour of the processor. ``own``: the rows to assemble (default: all);
    lengths are those that all samples need, and the other samples need no pixels.
    """
    rows = [{key: value for key, value in sample.items() if key != "pixel_values"} for sample in samples]
    answers = [int(np.sum(row["labels"] != IGNORE)) if "labels" in row else 0 for row in rows]
    joined = [answer if processor.decoder_only else 0 for answer in answers]  # responses that follow in input_ids
    texts = [key for key in rows[0] if key != "labels"]
    longest = max(
        len(row[key]) - (after if key == "input_ids" else 0)
        for row, after in zip(rows, joined, strict=True)
        for key in texts
    )
    lengths = dict.fromkeys(texts, bucket(longest, instruction_lengths, "instruction_lengths"))
    if "labels" in rows[0]:
        lengths["labels"] = bucket(max(answers), response_lengths, "response_lengths")
        if processor.decoder_only:
            lengths["input_ids"] += lengths["labels"]
            lengths["labels"] = lengths["input_ids"]
    if own is not None:
        samples, rows = [samples[n] for n in own], [rows[n] for n in own]
    pixels = np.stack([sample["pixel_values"] for sample in samples])
    return {"pixel_values": np.zeros_like(pixels) if blank_image else pixels, **processor.pad(rows, lengths)}
