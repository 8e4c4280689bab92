"""A prepared split as questions to a model: in order, in batches of one size, each distinct picture once."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from instructblip_jax.data.loader import pixels_of
from instructblip_jax.data.prepared import pictures_shown
from instructblip_jax.data.record import Record
from instructblip_jax.data.templates import Templates, check, instruction
from instructblip_jax.processors.instructblip import Processor

LONGER = 64
"""Tokens by which the lengths go on where an instruction is longer than all that are configured."""


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """Some records, and the B rows that ask about them; rows beyond the records repeat the first one.

    Attributes:
      pixels: float32 [u, H, W, 3] (of video [u, F, H, W, 3]), this host's rows of the ``pictures`` distinct pictures.
      place: int32 [B], the picture of each row.
      text: instructions and masks, int32 [B, T] each, of all rows.
    """

    records: list[Record]
    pixels: np.ndarray
    pictures: int
    place: np.ndarray
    text: dict[str, np.ndarray]


def evaluation_batches(
    source: Sequence[Record],
    processor: Processor,
    templates: Templates,
    *,
    batch_size: int,
    instruction_lengths: Sequence[int],
    start: int = 0,
    own: Callable[[int], np.ndarray] | None = None,
) -> Iterator[EvalBatch]:
    """The records of a split, or its `questions.Questions`, in order from number ``start`` on, each with its set's
    first template. A batch ends early where the next record shows another number of pictures.

    ``own``: of so many pictures those that this host decodes (default: all). The number of pictures of a batch is
    ``batch_size`` or that halved again and again, so that few programs are compiled. The language model reads an
    instruction whole, whatever its length; the Q-Former as much of its end as it has positions for.
    """
    check(templates, source[0])
    lengths = sorted(instruction_lengths)
    shown = pictures_shown(source)
    first = start
    while first < len(source):
        alike = shown[first : first + batch_size] == shown[first]
        frames = int(shown[first])
        records = [source[first + n] for n in range(len(alike) if alike.all() else int(alike.argmin()))]
        first += len(records)
        rows = records + [records[0]] * (batch_size - len(records))
        texts = [processor.encode(instruction(templates, row, 0)) for row in rows]
        longest = max(len(ids) for text in texts for ids in text.values())
        while lengths[-1] < longest:
            lengths.append(lengths[-1] + LONGER)
        length = next(length for length in lengths if length >= longest)
        numbers: dict[tuple[bytes, ...], int] = {}
        place = np.array([numbers.setdefault(row.images, len(numbers)) for row in rows], np.int32)
        distinct = [rows[n] for n in np.unique(place, return_index=True)[1]]
        pictures = batch_size
        while pictures % 2 == 0 and pictures // 2 >= len(distinct):
            pictures //= 2
        distinct += [rows[0]] * (pictures - len(distinct))
        decoded = range(pictures) if own is None else own(pictures).tolist()
        pixels = np.stack([pixels_of(distinct[n], processor, frames) for n in decoded])
        yield EvalBatch(records, pixels, pictures, place, processor.pad(texts, processor.lengths(texts[0], length)))
