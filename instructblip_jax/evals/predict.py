"""A model's answers over a prepared split."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from instructblip_jax.data.record import Record


class Answerer(Protocol):
    """What is asked of a model here (`instructblip_jax.InstructBlip` has it)."""

    def encode_image(self, pixels: np.ndarray) -> Any: ...

    def greedy_ids(self, image: Any, batch: dict[str, np.ndarray], length: int) -> np.ndarray: ...


class Decoder(Protocol):
    def decode(self, ids: np.ndarray) -> list[str]: ...


def predict(
    model: Answerer,
    processor: Decoder,
    batches: Iterable[tuple[list[Record], dict[str, np.ndarray]]],
    *,
    max_new_tokens: int,
) -> list[tuple[Record, str, str]]:
    """(record, answer, answer with the picture blanked) for every record; blanked is the processor's mean colour."""
    out = []
    for records, batch in batches:
        pixels = batch["pixel_values"]
        texts = []
        for seen in (pixels, np.zeros_like(pixels)):
            ids = model.greedy_ids(model.encode_image(seen), batch, max_new_tokens)
            texts.append(processor.decode(ids))
        out += [(record, a, b) for record, a, b in zip(records, *texts, strict=False)]
    return out
