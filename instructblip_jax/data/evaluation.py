"""A prepared split as questions to a model: in order, in batches of one size, with distinct media only once."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from instructblip_jax.data.loader import media_of
from instructblip_jax.data.prepared import shown_as
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.data.templates import Templates, check, instruction
from instructblip_jax.processors.base import BaseProcessor

LONGER = 64
"""Step of static lengths, in tokens, if an instruction is longer than all configured ones."""


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """Some records, and the B rows for them; rows beyond the records repeat the first one.

    Attributes:
      media: media arrays by batch key, of the rows ``own``.
      rows: padded number of distinct media: B, or B halved a number of times.
      place: int32 [B], the index of each row's media among ``rows``.
      text: instructions and masks, int32 [B, T] each, of all rows.
      own: the indices of this host's media among ``rows``; None means all.
    """

    records: list[Record]
    media: dict[str, np.ndarray]
    rows: int
    place: np.ndarray
    text: dict[str, np.ndarray]
    own: np.ndarray | None = None


def evaluation_batches(
    source: Sequence[Record],
    processor: BaseProcessor,
    templates: Templates,
    *,
    batch_size: int,
    instruction_lengths: Sequence[int],
    start: int = 0,
    own: Callable[[int], np.ndarray] | None = None,
) -> Iterator[EvalBatch]:
    """The records of a split, or its `questions.Questions`, in order from number ``start`` on, each with its set's
    first template. A batch ends early if the next record has other
    kinds of media.

    ``own``: the number of distinct media of a batch -> those that this host decodes (None: all). That number is
    ``batch_size``, halved as long as all media fit, so that few programs are compiled. The language model reads an
    instruction of any length in full; the processor determines how much of it other parts read.
    """
    check(templates, source[0])
    lengths = sorted(instruction_lengths)
    shown = shown_as(source, processor.static_kinds)
    numbers = shown.numbers
    first = start
    while first < len(source):
        alike = numbers[first : first + batch_size] == numbers[first]
        records = [source[first + n] for n in range(len(alike) if alike.all() else int(alike.argmin()))]
        kinds = shown.of(first)
        first += len(records)
        asked = records + [records[0]] * (batch_size - len(records))
        said = [processor.asked(instruction(templates, row, 0)) for row in asked]
        pictures = [processor.shown(tuple(medium.kind for medium in row.media)) for row in asked]
        texts = [processor.encode(text, pictures=count) for text, count in zip(said, pictures, strict=True)]
        longest = max(processor.lengths(text)[0] for text in texts)
        while lengths[-1] < longest:
            lengths.append(lengths[-1] + LONGER)
        length = next(length for length in lengths if length >= longest)
        known: dict[tuple[Medium, ...], int] = {}
        place = np.array([known.setdefault(row.media, len(known)) for row in asked], np.int32)
        distinct = [asked[n] for n in np.unique(place, return_index=True)[1]]
        rows = batch_size
        while rows % 2 == 0 and rows // 2 >= len(distinct):
            rows //= 2
        distinct += [asked[0]] * (rows - len(distinct))
        local = None if own is None else own(rows)
        decoded = distinct if local is None else [distinct[n] for n in local.tolist()]
        media = processor.stack([media_of(record, processor) for record in decoded], kinds)
        text = processor.batch(texts, length, kinds=kinds, training=False)
        yield EvalBatch(records, media, rows, place, text, local)
