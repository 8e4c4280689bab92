"""Prepared datasets -> training batches.

Batch n of a run is a pure function of configuration, seed and n, through the window to which it belongs. The saved
state of the iterator is therefore n, the same on every host and for any read-ahead. Every host draws and orders the
texts of whole batches, so that all agree on order and lengths, but decodes only the media of its own rows.
"""

import dataclasses
import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from instructblip_jax.data.buckets import Shape, assign
from instructblip_jax.data.collate import collate, grid
from instructblip_jax.data.documents import WHOLE, DocumentsConfig
from instructblip_jax.data.prepared import Joined, Shown, Source, by_number, shown_as
from instructblip_jax.data.record import DOCUMENT, Kinds, Record
from instructblip_jax.data.sides import exchanged
from instructblip_jax.data.templates import Templates, check
from instructblip_jax.data.visits import Visit, fits, visit
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.image import UnusableImageError

WINDOW = 4
"""Number of batches whose samples are sorted by length together, so that long answers share batches."""
READ_AHEAD = grain.ReadOptions(num_threads=max(2, min(16, os.cpu_count() or 1)), prefetch_buffer_size=8)
"""Number of batches that are prepared in advance."""
KEPT = 1024
"""Maximum number of records in a window that keep their media; in larger windows media are read again for each
batch."""
TRIES = 100
"""Give up after this many consecutive records that exceed the static lengths."""

Members = Mapping[int, Sequence[int] | np.ndarray]
"""Index of a set in the mixture -> indices of records in it."""
Cached = Callable[[Sequence[tuple[str, int]], Kinds], Mapping[str, np.ndarray]]
"""(set, index of the record) of each row, and the kinds of media in each -> cached features by media key."""


@dataclasses.dataclass(frozen=True)
class _Example:
    """One visit of a record; its template and answer are drawn anew each time.

    Attributes:
      record: without its media if the window is large.
      set: index of its set in the mixture.
      visit: its token rows and media.
      passed: uids of preceding records that were too long.
      index: index of the record in its set.
      seed: seed of its media's augmentation, new at each visit.
      identity: `Record.identity`, if the system uses it.
      exchanged: its two images are exchanged.
    """

    record: Record
    set: int
    visit: Visit
    passed: tuple[str, ...] = ()
    index: int = 0
    seed: int = 0
    identity: int = 0
    exchanged: bool = False


@dataclasses.dataclass(frozen=True)
class _Places:
    """References to records of a set: item n is (the set's index in the mixture, n)."""

    number: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.number, index


def media_of(record: Record, processor: BaseProcessor, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """The media arrays of a prepared record, by batch key; those of a blank medium if it has none.

    ``rng`` draws the augmentation. Raises ValueError if they cannot be read.
    """
    try:
        return processor.media(record.media, record.uid, rng)
    except (UnusableImageError, UnusableMediaError) as error:
        # `prepare` skips and counts unreadable media, so a medium that fails here was damaged on this disk.
        raise ValueError(f"{error}; prepare the set {record.dataset!r} again") from error


def _cut(examples: Sequence[_Example], batch_size: int, shapes: Sequence[Shape]) -> list[list[_Example]]:
    """A window's examples -> batches of similar lengths, the longest first.

    Each has the shape that the longest remaining example needs, and is filled with the next ones that fit.
    """
    lengths = np.array([example.visit.lengths for example in examples])
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


def _by_kinds(shown: Sequence[Shown]) -> list[Members]:
    """The records by their kinds of media, those with fewer media first: for each kinds, index of a set -> its records
    with exactly these kinds."""
    groups: dict[Kinds, dict[int, Sequence[int] | np.ndarray]] = {}
    for number, own in enumerate(shown):
        for place in np.unique(own.numbers).tolist():
            alike = np.flatnonzero(own.numbers == place)
            members = range(len(own.numbers)) if len(alike) == len(own.numbers) else alike
            groups.setdefault(own.kinds[place], {})[number] = members
    return [groups[kinds] for kinds in sorted(groups, key=by_number)]


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Batch n of a run, by index; the next window is prepared in the background."""

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


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The records of a mixture and the settings of its batches; see `training_batches` for the fields.

    ``sources`` and ``probabilities`` have the same order, which defines a set's index. ``shapes`` are the static text
    lengths, ``largest`` the maximum lengths of instruction and response.
    """

    names: tuple[str, ...]
    sources: tuple[Source | Joined, ...]
    probabilities: Mapping[str, float]
    processor: BaseProcessor
    templates: Templates
    batch_size: int
    shapes: tuple[Shape, ...]
    largest: Shape
    seed: int
    per_window: int
    blank: bool
    rows: tuple[int, ...]
    features: Cached | None
    documents: DocumentsConfig

    @functools.cached_property
    def shown(self) -> list[Shown]:
        """The kinds of media for which a batch has room, for each set's records."""
        return [shown_as(source, self._kinds_of(source[0])) for source in self.sources]

    def _kinds_of(self, first: Record) -> Callable[[Kinds], Kinds]:
        """The kinds for which a batch has room, as a function of a record's kinds, for the set with this first
        record."""
        if first.task == DOCUMENT and self.features is not None:
            raise ValueError(
                f"config.data.features: set {first.dataset!r} has documents, of whose images a visit uses some; "
                "leave it out"
            )
        most = self.documents.pictures or None if first.task == DOCUMENT else None
        return lambda kinds: self.processor.static_kinds(kinds[:most])

    @property
    def keeps_media(self) -> bool:
        """True if the examples of a window keep their media until they are decoded."""
        return self.features is None and self.per_window * self.batch_size <= KEPT

    def windows(self) -> grain.MapDataset:
        """Endless windows, each a list of ``per_window`` batches of examples whose rows have the same kinds of
        media."""
        groups = _by_kinds(self.shown)
        if len(groups) == 1:
            return self._windows(groups[0])
        return grain.MapDataset.mix(list(map(self._windows, groups)), [sum(self._shares(own)) for own in groups])

    def _windows(self, members: Members) -> grain.MapDataset:
        sets = []
        for number, own in members.items():
            check(self.templates, self.sources[number][int(own[0])])
            places = grain.MapDataset.source(_Places(number, len(own)))
            sets.append(places.seed(self.seed + 1000 * number).shuffle().repeat())
        examples = grain.MapDataset.mix(sets, self._shares(members)).seed(self.seed)
        examples = examples.random_map(lambda place, rng: self.example(place, rng, members))
        windows = examples.batch(self.per_window * self.batch_size, drop_remainder=True, batch_fn=list)
        return windows.random_map(self.window)

    def _shares(self, members: Members) -> list[float]:
        """The probability of each set's members."""
        return [self.probabilities[self.names[n]] * (len(own) / len(self.sources[n])) for n, own in members.items()]

    def example(self, place: tuple[int, int], rng: np.random.Generator, members: Members) -> _Example:
        """The record at ``place`` among a set's ``members``, or the first one after it that is not skipped and not
        longer than ``largest``: conversations lose whole turns, and documents are cut (`visits.visit`).

        Raises ValueError after `TRIES` unusable records.
        """
        number, first = place
        source, own = self.sources[number], members[number]
        passed: tuple[str, ...] = ()
        for tried in range(first, first + min(TRIES, len(own))):
            index = int(own[tried % len(own)])
            record = source[index]
            exchange = self.processor.augment.exchange and len(record.media) == 2 and bool(rng.random() < 0.5)
            record = exchanged(record) if exchange else record
            more = (source[int(own[later % len(own)])] for later in range(tried + 1, tried + len(own)))
            found = visit(record, rng, self.templates, self.processor, self.largest, self.documents, more)
            if found is None:
                continue
            if fits(found.lengths, self.largest):
                kept = found.of(record) if self.keeps_media else dataclasses.replace(record, media=())
                identity = record.identity if self.processor.identity_key else 0
                seed = int(rng.integers(1 << 62))
                return _Example(kept, number, found, passed, index, seed, identity, exchange)
            passed = (*passed, record.uid)
            length = found.lengths
        if not passed:
            raise ValueError(f"{record.uid}: config.data.documents skips it and all records before it")
        raise ValueError(
            f"{record.uid}: this record and {len(passed) - 1} before it are too long ({length[0]} and {length[1]} "
            "tokens) for data.instruction_lengths and data.response_lengths, which go up to "
            f"{self.largest[0]} and {self.largest[1]}"
        )

    def window(self, examples: list[_Example], rng: np.random.Generator) -> list[list[_Example]]:
        """The batches of a window, in random order."""
        cut = _cut(examples, self.batch_size, self.shapes)
        return [cut[n] for n in rng.permutation(len(cut))]

    def batch(self, examples: Sequence[_Example]) -> dict[str, Any]:
        """The arrays of a batch for this host's rows, with their names; see `training_batches`."""
        own = [examples[n] for n in self.rows]
        kinds = self.shown[examples[0].set].of(examples[0].index)
        media = [self._media(example) for example in own] if self.features is None else []
        arrays = collate(
            [example.visit.text for example in examples],
            media,
            self.processor,
            lengths=[example.visit.lengths for example in examples],
            shapes=self.shapes,
            kinds=kinds,
            blank=self.blank,
            own=self.rows,
            identities=[example.identity for example in examples],
        )
        if self.features is not None:
            cached = self.features([(self.names[one.set], one.index) for one in own], kinds)
            arrays |= {self.processor.config.feature_keys[key]: array for key, array in cached.items()}
        return arrays | {
            "set": np.array([example.set for example in own], np.int32),
            "passed": [uid for example in examples for uid in example.passed],
            "uid": [example.record.uid for example in own],
        }

    def _media(self, example: _Example) -> dict[str, np.ndarray]:
        record = example.record
        if not self.keeps_media:
            record = self.sources[example.set][example.index]
            record = example.visit.of(exchanged(record) if example.exchanged else record)
        return media_of(record, self.processor, np.random.default_rng(example.seed))


def training_batches(
    sources: Mapping[str, Source | Joined],
    probabilities: Mapping[str, float],
    processor: BaseProcessor,
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
    features: Cached | None = None,
    documents: DocumentsConfig = WHOLE,
) -> grain.DatasetIterator:
    """Endless batches of ``batch_size`` rows, each with this host's rows ``own`` (None: all); over all hosts they do
    not depend on the number of hosts. ``get_state`` and ``set_state`` save and restore the position.

    Each batch has the arrays of `config.batch`; "set" int32 [rows], each row's index in ``probabilities``; and two
    lists, "uid", the rows' records by name, and "passed", the records of all hosts that were too long for the batch.
    Each set is reshuffled in every pass. The rows of a batch have the same kinds of media: a set's records with the
    same kinds are sampled as a separate set, in proportion to their number. The augmentation of a row's media is drawn
    anew at each visit, from the visit's own seed, so a resumed run sees the same pixels.

    Args:
      shapes, window: as in `run.config.DataConfig`.
      blank_image: show the blank medium for all.
      features: cached features to give instead of the media, which are then not decoded.
      documents: the part of a document that a visit reads.

    Raises ValueError for templates that do not fit the records.
    """
    names = tuple(probabilities)
    data = TrainingData(
        names=names,
        sources=tuple(sources[name] for name in names),
        probabilities=probabilities,
        processor=processor,
        templates=templates,
        batch_size=batch_size,
        shapes=tuple(shapes or grid(instruction_lengths, response_lengths)),
        largest=(max(instruction_lengths), max(response_lengths)),
        seed=seed,
        per_window=window,
        blank=blank_image,
        rows=tuple(range(batch_size) if own is None else own.tolist()),
        features=features,
        documents=documents,
    )
    batches = grain.MapDataset.source(_Batches(data.windows(), window, data.batch))
    return iter(batches.to_iter_dataset(READ_AHEAD))  # media are decoded in the threads that read ahead


def sample_lengths(
    sources: Mapping[str, Source | Joined],
    probabilities: Mapping[str, float],
    processor: BaseProcessor,
    templates: Templates,
    *,
    seed: int,
    count: int = 4096,
    largest: Shape | None = None,
    documents: DocumentsConfig = WHOLE,
) -> np.ndarray:
    """int [N, 2]: tokens of instruction and response of examples drawn as in training, of any length; only
    conversations and documents are shortened to ``largest`` (`visits.visit`)."""
    rng = np.random.default_rng(seed)
    names = list(probabilities)
    lengths = []
    for number in rng.choice(len(names), count, p=list(probabilities.values())):
        source = sources[names[number]]
        record = source[int(rng.integers(len(source)))]
        found = visit(record, rng, templates, processor, largest, documents)
        if found is not None:
            lengths.append(found.lengths)
    return np.array(lengths)
