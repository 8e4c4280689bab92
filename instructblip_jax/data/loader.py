"""Prepared sets -> training batches and evaluation batches.

Window n of a run (a few batches) is a pure function of configuration, seed and n, a `grain.MapDataset`: the saved state
of the iterator is two small numbers, the same on every host, whatever the read-ahead. Every host draws and orders the
texts of whole batches, so that all agree on order and lengths; of pictures it decodes those of its own rows only.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from instructblip_jax.data.builder import Source
from instructblip_jax.data.collate import collate
from instructblip_jax.data.record import Record
from instructblip_jax.data.templates import Templates, check, instruction
from instructblip_jax.processors.image import UnusableImageError
from instructblip_jax.processors.processor import Processor

WINDOW = 4
"""Batches whose samples are sorted by length together: long answers then share batches, and short ones stay short."""
READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
"""In windows."""


@dataclasses.dataclass(frozen=True)
class _Example:
    """One visit of a record: a template and an answer are drawn anew each time. ``set``: its number in the mixture."""

    record: Record
    set: int
    text: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """A source whose records come with the number of their set."""

    source: Source
    number: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, Record]:
        return self.number, self.source[index]


def _example(
    numbered: tuple[int, Record], rng: np.random.Generator, processor: Processor, templates: Templates
) -> _Example:
    number, record = numbered
    if not record.answers:
        raise ValueError(f"{record.uid}: has no answer to train on")
    text = instruction(templates, record, int(rng.integers(1 << 30)))
    answer = record.answers[int(rng.integers(len(record.answers)))]
    return _Example(record, number, processor.encode(text, answer))


def _pixels(record: Record, processor: Processor) -> np.ndarray:
    try:
        return processor.image(record.images[0], record.uid)
    except UnusableImageError as error:
        # `prepare` counts and leaves out what cannot be read: a picture that breaks here broke on this disk.
        raise ValueError(f"{error}; prepare the set {record.dataset!r} again") from error


def _sorted_window(examples: Sequence[_Example], rng: np.random.Generator, batch_size: int) -> list[list[_Example]]:
    """Examples -> batches of like lengths, in random order."""
    order = sorted(
        range(len(examples)), key=lambda n: (len(examples[n].text["labels"]), len(examples[n].text["input_ids"]))
    )
    batches = [[examples[n] for n in order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    return [batches[n] for n in rng.permutation(len(batches))]


class _Spread(grain.experimental.FlatMapTransform):
    """A window of batches -> its batches."""

    max_fan_out = WINDOW

    def flat_map(self, element: list) -> list:
        return element


def training_batches(
    sources: Mapping[str, Source],
    probabilities: Mapping[str, float],
    processor: Processor,
    templates: Templates,
    *,
    batch_size: int,
    instruction_lengths: Sequence[int],
    response_lengths: Sequence[int],
    seed: int,
    blank_image: bool = False,
    own: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Endless batches of ``batch_size`` rows, of which each has the rows ``own`` (default: all), this host's; over all
    hosts they are the same whatever their number. ``get_state`` and ``set_state`` hold the position.

    Beside the contract's arrays: "set" int32 [rows], each row's number in ``probabilities``, and "uid", the records'
    names, a list. Each set is shuffled anew every pass. Raises ValueError for templates that do not fit the records.
    """
    sets, weights = [], []
    for number, (name, probability) in enumerate(probabilities.items()):
        check(templates, sources[name][0])
        source = grain.MapDataset.source(_Numbered(sources[name], number))
        sets.append(source.seed(seed + 1000 * number).shuffle().repeat())
        weights.append(probability)
    examples = grain.MapDataset.mix(sets, weights).seed(seed)
    examples = examples.random_map(lambda numbered, rng: _example(numbered, rng, processor, templates))
    windows = examples.batch(WINDOW * batch_size, drop_remainder=True, batch_fn=list)
    windows = windows.random_map(lambda window, rng: _sorted_window(window, rng, batch_size))
    rows = range(batch_size) if own is None else own.tolist()

    def assemble(batch: Sequence[_Example]) -> dict[str, Any]:
        arrays = collate(
            _samples(batch, rows, processor),
            processor,
            instruction_lengths=instruction_lengths,
            response_lengths=response_lengths,
            blank_image=blank_image,
            own=rows,
        )
        sets = np.array([batch[n].set for n in rows], np.int32)
        return arrays | {"set": sets, "uid": [batch[n].record.uid for n in rows]}

    # Pictures are decoded in the threads that read ahead.
    windows = windows.map(lambda batches: [assemble(batch) for batch in batches])
    return iter(grain.experimental.FlatMapIterDataset(windows.to_iter_dataset(READ_AHEAD), _Spread()))


def _samples(batch: Sequence[_Example], rows: Sequence[int], processor: Processor) -> list[Mapping[str, np.ndarray]]:
    """What `collate` asks for: texts, and the pictures of these rows."""
    pixels = {n: {"pixel_values": _pixels(batch[n].record, processor)} for n in rows}
    return [{**example.text, **pixels.get(n, {})} for n, example in enumerate(batch)]


def evaluation_batches(
    source: Source,
    processor: Processor,
    templates: Templates,
    *,
    batch_size: int,
    instruction_lengths: Sequence[int],
    blank_image: bool = False,
    own: np.ndarray | None = None,
) -> Iterator[tuple[list[Record], dict[str, Any]]]:
    """The records of a split in order, each set's first template, without labels.

    All records of a batch, and of its arrays the rows ``own`` (default: all), this host's. The last batch is filled up
    with its first record, so that one shape serves; only real records are named.
    """
    check(templates, source[0])
    for start in range(0, len(source), batch_size):
        records = [source[n] for n in range(start, min(start + batch_size, len(source)))]
        filled = records + [records[0]] * (batch_size - len(records))
        examples = [_Example(r, 0, processor.encode(instruction(templates, r, 0))) for r in filled]
        rows = range(batch_size) if own is None else own.tolist()
        batch = collate(
            _samples(examples, rows, processor),
            processor,
            instruction_lengths=instruction_lengths,
            response_lengths=(),
            blank_image=blank_image,
            own=rows,
        )
        yield records, batch
