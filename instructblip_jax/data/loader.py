"""Prepared sets -> training batches.

Batch n of a run is a pure function of configuration, seed and n, by way of the window that it is cut from: the saved
state of the iterator is its number, the same on every host, whatever the read-ahead. Every host draws and orders the
texts of whole batches, so that all agree on order and lengths; of pictures it decodes those of its own rows only.
"""

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from instructblip_jax.data.buckets import Shape, assign
from instructblip_jax.data.collate import collate, grid, text_lengths
from instructblip_jax.data.prepared import Joined, Source, pictures_shown
from instructblip_jax.data.record import Record
from instructblip_jax.data.templates import Templates, at_turn, check, instruction
from instructblip_jax.features.cache import Features
from instructblip_jax.processors.image import ImageProcessor, UnusableImageError
from instructblip_jax.processors.instructblip import Processor

WINDOW = 4
"""Batches whose samples are sorted by length together: long answers then share batches, and short ones stay short."""
READ_AHEAD = grain.ReadOptions(num_threads=max(2, min(16, os.cpu_count() or 1)), prefetch_buffer_size=8)
"""In batches."""
KEPT = 1024
"""Records of a window whose pictures are kept; of larger ones each is read again when its batch is made."""
TRIES = 100
"""Records of a set that may be too long in a row."""


@dataclasses.dataclass(frozen=True)
class _Example:
    """One visit of a record: a template and an answer are drawn anew each time. ``set``: its number in the mixture;
    ``lengths``: tokens of instruction and response; ``passed``: the records before it that were too long, by uid;
    ``index``: the record's place in its set."""

    record: Record  # of a large window without its pictures
    set: int
    text: Mapping[str, np.ndarray]
    lengths: Shape
    passed: tuple[str, ...] = ()
    index: int = 0


@dataclasses.dataclass(frozen=True)
class _Places:
    """Stands for some of a set's records: (the set's number in the mixture, the record's among these)."""

    number: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.number, index


def drawn(record: Record, rng: np.random.Generator, templates: Templates) -> tuple[str, str]:
    """An instruction and an answer of a record: which of its templates, turns and answers is chance."""
    if not record.answers and not record.turns:
        raise ValueError(f"{record.uid}: has no answer to train on")
    choice = int(rng.integers(1 << 30))
    if record.turns:
        turn = int(rng.integers(len(record.turns)))
        return instruction(templates, at_turn(record, turn), choice), record.turns[turn][1]
    if record.weights:
        answer = record.answers[int(rng.choice(len(record.answers), p=record.weights))]
    else:
        answer = record.answers[int(rng.integers(len(record.answers)))]
    return instruction(templates, record, choice), answer


def _example(
    place: tuple[int, int],
    rng: np.random.Generator,
    sources: Sequence[Source | Joined],
    members: Mapping[int, Sequence[int] | np.ndarray],
    processor: Processor,
    templates: Templates,
    largest: Shape,
    keep: bool,
) -> _Example:
    """The record at ``place`` among a set's ``members``, or the first of them after it that is not longer than
    ``largest``: no text is ever cut."""
    number, first = place
    source, own = sources[number], members[number]
    passed: tuple[str, ...] = ()
    for place_of_try in range(first, first + min(TRIES, len(own))):
        index = int(own[place_of_try % len(own)])
        record = source[index]
        text = processor.encode(*drawn(record, rng, templates), training=True)
        lengths = text_lengths(text, processor)
        if lengths[0] <= largest[0] and lengths[1] <= largest[1]:
            kept = record if keep else dataclasses.replace(record, images=())
            return _Example(kept, number, text, lengths, passed, index)
        passed = (*passed, record.uid)
    raise ValueError(
        f"{record.uid}: this record and {len(passed) - 1} before it are too long ({lengths[0]} and {lengths[1]} "
        f"tokens) for data.instruction_lengths and data.response_lengths, which go up to {largest[0]} and {largest[1]}"
    )


def picture_of(record: Record, number: int, image: ImageProcessor) -> np.ndarray:
    """One picture of a prepared record, float32 [H, W, 3]. Raises ValueError where it cannot be read."""
    try:
        return image(record.images[number], record.uid)
    except UnusableImageError as error:
        # `prepare` counts and leaves out what cannot be read: a picture that breaks here broke on this disk.
        raise ValueError(f"{error}; prepare the set {record.dataset!r} again") from error


def pixels_of(record: Record, processor: Processor, frames: int = 1) -> np.ndarray:
    """float32 [H, W, 3], or of more than one frame [F, H, W, 3]: the last picture stands for missing ones, and the
    mean colour for a record without any."""
    pixels = [picture_of(record, n, processor.image) for n in range(min(frames, len(record.images)))]
    pixels = pixels or [np.zeros((processor.image.height, processor.image.width, 3), np.float32)]
    return pixels[0] if frames == 1 else np.stack(pixels + [pixels[-1]] * (frames - len(pixels)))


def _cut(examples: Sequence[_Example], batch_size: int, shapes: Sequence[Shape]) -> list[list[_Example]]:
    """A window's examples -> batches of like lengths, the longest first.

    Each takes the shape that the longest example left needs, and is filled up with the next ones that fit it.
    """
    lengths = np.array([example.lengths for example in examples])
    kinds = assign(lengths, shapes)
    left = np.lexsort((lengths[:, 0], lengths[:, 1], kinds))[::-1]
    batches = []
    while len(left):
        kind = kinds[left[0]]
        while (fitting := np.flatnonzero((lengths[left] <= shapes[kind]).all(-1))).size < batch_size:
            kind += 1
        batches.append([examples[n] for n in left[fitting[:batch_size]]])
        left = np.delete(left, fitting[:batch_size])
    return batches


def _by_pictures(shown: Sequence[np.ndarray]) -> list[dict[int, Sequence[int] | np.ndarray]]:
    """For each number of pictures that occurs, ascending: set's number -> its records that show so many."""
    groups: dict[int, dict[int, Sequence[int] | np.ndarray]] = {}
    for number, counts in enumerate(shown):
        for count in np.unique(counts).tolist():
            own = np.flatnonzero(counts == count)
            groups.setdefault(count, {})[number] = range(len(counts)) if len(own) == len(counts) else own
    return [groups[count] for count in sorted(groups)]


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Batch n of a run, by number; the window after the one that is asked for is made in the meantime."""

    windows: grain.MapDataset
    per_window: int
    assemble: Callable[[list[_Example]], dict[str, Any]]
    ready: dict[int, Future] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    worker: ThreadPoolExecutor = dataclasses.field(default_factory=lambda: ThreadPoolExecutor(1))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, place = divmod(index, self.per_window)
        with self.lock:
            for wanted in (number, number + 1):
                if wanted not in self.ready:
                    self.ready[wanted] = self.worker.submit(self.windows.__getitem__, wanted)
            for old in [known for known in self.ready if known < number - 1]:
                del self.ready[old]
            window = self.ready[number]
        return self.assemble(window.result()[place])


def training_batches(
    sources: Mapping[str, Source | Joined],
    probabilities: Mapping[str, float],
    processor: Processor,
    templates: Templates,
    *,
    batch_size: int,
    instruction_lengths: Sequence[int],
    response_lengths: Sequence[int],
    seed: int,
    shapes: Sequence[Shape] = (),
    window: int = WINDOW,
    blank_image: bool = False,
    own: np.ndarray | None = None,
    features: Features | None = None,
) -> grain.DatasetIterator:
    """Endless batches of ``batch_size`` rows, of which each has the rows ``own`` (default: all), this host's; over all
    hosts they are the same whatever their number. ``get_state`` and ``set_state`` hold the position.

    Beside the contract's arrays: "set" int32 [rows], each row's number in ``probabilities``; and two lists, "uid", the
    rows' records by name, and "passed", those that were too long for the batch, of all hosts. Each set is shuffled anew
    every pass. The rows of a batch show as many pictures each: a set's records of one number of pictures are drawn as
    if they were a set of their own, as often as they are in their set. ``shapes``, ``window``: as in
    `config.DataConfig`. ``features``: give "image_features" [B, (F,) P, Dv] from there for "pixel_values", and decode
    no picture. Raises ValueError for templates that do not fit the records.
    """
    names = tuple(probabilities)
    numbered = [sources[name] for name in names]
    pairs = shapes or grid(instruction_lengths, response_lengths)
    largest = (max(instruction_lengths), max(response_lengths))
    rows = range(batch_size) if own is None else own.tolist()
    shown = [pictures_shown(source) for source in numbered]
    keep = features is None and window * batch_size <= KEPT

    def assemble(batch: Sequence[_Example]) -> dict[str, Any]:
        frames = int(shown[batch[0].set][batch[0].index])
        if features is None:
            records = {n: batch[n].record if keep else numbered[batch[n].set][batch[n].index] for n in rows}
            samples = _samples(batch, records, processor, frames)
        else:
            samples = [example.text for example in batch]
        arrays = collate(samples, processor, shapes=pairs, blank_image=blank_image, own=rows)
        if features is not None:
            arrays["image_features"] = features([(names[batch[n].set], batch[n].index) for n in rows], frames)
        sets = np.array([batch[n].set for n in rows], np.int32)
        passed = [uid for example in batch for uid in example.passed]
        return arrays | {"set": sets, "passed": passed, "uid": [batch[n].record.uid for n in rows]}

    def shuffled(examples: list[_Example], rng: np.random.Generator) -> list[list[_Example]]:
        cut = _cut(examples, batch_size, pairs)
        return [cut[n] for n in rng.permutation(len(cut))]

    def stream(members: Mapping[int, Sequence[int] | np.ndarray]) -> grain.MapDataset:
        """Windows of batches over these records of these sets, as text."""
        sets = []
        for number, own in members.items():
            check(templates, numbered[number][int(own[0])])
            places = grain.MapDataset.source(_Places(number, len(own)))
            sets.append(places.seed(seed + 1000 * number).shuffle().repeat())
        examples = grain.MapDataset.mix(sets, shares(members)).seed(seed)
        examples = examples.random_map(
            lambda place, rng: _example(place, rng, numbered, members, processor, templates, largest, keep)
        )
        windows = examples.batch(window * batch_size, drop_remainder=True, batch_fn=list)
        return windows.random_map(shuffled)

    def shares(members: Mapping[int, Sequence[int] | np.ndarray]) -> list[float]:
        return [probabilities[names[n]] * (len(own) / len(numbered[n])) for n, own in members.items()]

    groups = _by_pictures(shown)
    each_share = [sum(shares(members)) for members in groups]
    windows = grain.MapDataset.mix(list(map(stream, groups)), each_share) if len(groups) > 1 else stream(groups[0])
    batches = grain.MapDataset.source(_Batches(windows, window, assemble))
    return iter(batches.to_iter_dataset(READ_AHEAD))  # pictures are decoded in the threads that read ahead


def sample_lengths(
    sources: Mapping[str, Source | Joined],
    probabilities: Mapping[str, float],
    processor: Processor,
    templates: Templates,
    *,
    seed: int,
    count: int = 4096,
) -> np.ndarray:
    """int [N, 2]: tokens of instruction and response of examples drawn as in training, whatever their length."""
    rng = np.random.default_rng(seed)
    names = list(probabilities)
    lengths = []
    for number in rng.choice(len(names), count, p=list(probabilities.values())):
        source = sources[names[number]]
        texts = drawn(source[int(rng.integers(len(source)))], rng, templates)
        lengths.append(text_lengths(processor.encode(*texts, training=True), processor))
    return np.array(lengths)


def _samples(
    batch: Sequence[_Example], records: Mapping[int, Record], processor: Processor, frames: int
) -> list[Mapping[str, np.ndarray]]:
    """What `collate` asks for: texts, and the pictures of ``records``, by row."""
    pixels = {n: {"pixel_values": pixels_of(record, processor, frames)} for n, record in records.items()}
    return [{**example.text, **pixels.get(n, {})} for n, example in enumerate(batch)]
