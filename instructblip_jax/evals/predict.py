"""A model's answers over a prepared split."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from instructblip_jax.data.record import Record


class Decoder(Protocol):
    """What is asked of a processor here."""

    def decode(self, ids: np.ndarray) -> list[str]: ...


def predict(
    answer: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    processor: Decoder,
    batches: Iterable[tuple[list[Record], dict[str, np.ndarray]]],
) -> list[tuple[Record, str, str]]:
    """(record, answer, answer with the picture blanked) for every record; blanked is the processor's mean colour.

    ``answer`` makes ids [B, T] of a batch's arrays (`generate.text.generate_ids` with a model and options): of all its
    rows, where the arrays hold those of one host.
    """
    out = []
    for records, batch in batches:
        blank = np.zeros_like(batch["pixel_values"])
        texts = [processor.decode(answer(seen)) for seen in (batch, batch | {"pixel_values": blank})]
        out += [(record, a, b) for record, a, b in zip(records, *texts, strict=False)]
    return out
