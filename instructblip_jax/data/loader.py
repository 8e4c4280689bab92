"""Prepared sets -> training batches and evaluation batches.

Window n of a run (a few batches) is a pure function of configuration, seed and n, a `grain.MapDataset`: the saved state
of the iterator is two small numbers, the same on every host, whatever the read-ahead.
"""

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


def _sample(
    record: Record, rng: np.random.Generator, processor: Processor, templates: Templates
) -> dict[str, np.ndarray]:
    """One visit of a record: a template and an answer are drawn anew each time."""
    if not record.answers:
        raise ValueError(f"{record.uid}: has no answer to train on")
    text = instruction(templates, record, int(rng.integers(1 << 30)))
    answer = record.answers[int(rng.integers(len(record.answers)))]
    return {"pixel_values": _pixels(record, processor), **processor.encode(text, answer)}


def _pixels(record: Record, processor: Processor) -> np.ndarray:
    try:
        return processor.image(record.image, record.uid)
    except UnusableImageError as error:
        # `prepare` counts and leaves out what cannot be read: a picture that breaks here broke on this disk.
        raise ValueError(f"{error}; prepare the set {record.dataset!r} again") from error


def _sorted_window(samples: Sequence[dict[str, np.ndarray]], rng: np.random.Generator, batch_size: int) -> list[list]:
    """Samples -> batches of like lengths, in random order."""
    order = sorted(range(len(samples)), key=lambda n: (len(samples[n]["labels"]), len(samples[n]["input_ids"])))
    batches = [[samples[n] for n in order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
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
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator:
    """Endless batches of this host's ``batch_size / shard_count`` rows; over all hosts they are the same whatever their
    number. ``get_state`` and ``set_state`` hold the position.

    Each set is shuffled anew every pass. Raises ValueError for templates that do not fit a set's records.
    """
    if batch_size % shard_count:
        raise ValueError(f"batch_size {batch_size} is not a multiple of the {shard_count} hosts")
    sets, weights = [], []
    for number, (name, probability) in enumerate(probabilities.items()):
        check(templates, sources[name][0])
        own = grain.MapDataset.source(sources[name]).seed(seed + 1000 * number).shuffle().repeat()
        sets.append(own)
        weights.append(probability)
    samples = grain.MapDataset.mix(sets, weights).seed(seed)
    samples = samples.random_map(lambda record, rng: _sample(record, rng, processor, templates))
    windows = samples.batch(WINDOW * batch_size, drop_remainder=True, batch_fn=list)
    windows = windows.random_map(lambda rows, rng: _sorted_window(rows, rng, batch_size))
    batches = grain.experimental.FlatMapIterDataset(windows.to_iter_dataset(READ_AHEAD), _Spread())
    rows = slice(shard_index, None, shard_count)

    def assemble(batch: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
        whole = collate(
            batch,
            processor,
            instruction_lengths=instruction_lengths,
            response_lengths=response_lengths,
            blank_image=blank_image,
        )
        return {key: value[rows] for key, value in whole.items()}

    return iter(batches.map(assemble))


def evaluation_batches(
    source: Source,
    processor: Processor,
    templates: Templates,
    *,
    batch_size: int,
    instruction_lengths: Sequence[int],
    blank_image: bool = False,
) -> Iterator[tuple[list[Record], dict[str, Any]]]:
    """The records of a split in order, each set's first template, without labels.

    The last batch is filled up with its first record, so that one shape serves; only real records are named.
    """
    check(templates, source[0])
    for start in range(0, len(source), batch_size):
        records = [source[n] for n in range(start, min(start + batch_size, len(source)))]
        rows = records + [records[0]] * (batch_size - len(records))
        samples = [
            {"pixel_values": _pixels(r, processor), **processor.encode(instruction(templates, r, 0))} for r in rows
        ]
        batch = collate(
            samples,
            processor,
            instruction_lengths=instruction_lengths,
            response_lengths=(),
            blank_image=blank_image,
        )
        yield records, batch
