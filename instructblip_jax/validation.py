"""The validation loss during training: without dropout, and without changing the run's state or data position.

For each set of the mixture with a split "validation", the same records are read with the same instructions and answers
every time, in batches with training's static shapes.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from instructblip_jax import mesh as meshes
from instructblip_jax.data import prepared
from instructblip_jax.data.buckets import Shape
from instructblip_jax.data.collate import collate
from instructblip_jax.data.documents import WHOLE, DocumentsConfig
from instructblip_jax.data.loader import media_of
from instructblip_jax.data.record import DOCUMENT
from instructblip_jax.data.templates import Templates
from instructblip_jax.data.visits import Visit, visit
from instructblip_jax.model import Model
from instructblip_jax.objectives.term import Term
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.systems.build import Arrays, merge

SPLIT = "validation"
RECORDS = 256
"""Maximum number of records per set, spread evenly over the split."""


class HeldOut:
    """Batches of ``rows`` rows, each with this host's rows ``own``; they can be iterated repeatedly. The arrays are
    those of training; rows beyond the records are excluded from every loss, and if the rows of a batch depend on one
    another (``whole``) only full batches are read.

    ``source``: the split. ``shapes``: the static lengths of instruction and response. ``blank_image``: use the blank
    medium. ``taken`` and ``left_out`` count records; those without an answer, longer than all shapes, or with more
    images than a batch has room for, are left out.
    ``documents``: as in `data.loader.training_batches`.
    """

    def __init__(
        self,
        source: prepared.Source | prepared.Joined,
        processor: BaseProcessor,
        templates: Templates,
        *,
        rows: int,
        shapes: Sequence[Shape],
        seed: int,
        own: np.ndarray,
        blank_image: bool = False,
        whole: bool = False,
        documents: DocumentsConfig = WHOLE,
    ):
        self.source, self.processor, self.rows, self.shapes = source, processor, rows, shapes
        self.own, self.blank_image, self.whole = own.tolist(), blank_image, whole
        most = documents.pictures or None if source[0].task == DOCUMENT else None

        def room(kinds: tuple[str, ...]) -> tuple[str, ...]:
            try:
                return processor.static_kinds(kinds[:most])
            except ValueError:  # more pictures than config.data.pictures, as in questions with many examples
                return ()

        self.shown = prepared.shown_as(source, room)
        ranks = self.shown.order
        largest = np.max(shapes, axis=0)
        count, found = min(RECORDS, len(source)), []
        for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
            record = source[index]
            fits = bool(self.shown.of(index)) or not record.media
            if fits and (record.answers or record.turns or record.task == DOCUMENT):
                # Always the same template, turn and answer, and the same part of a document.
                rng = np.random.default_rng((seed, index))
                longest = (int(largest[0]), int(largest[1]))
                visited = visit(record, rng, templates, processor, longest, documents)
                if visited is not None and (visited.lengths <= largest).all():
                    found.append((int(ranks[index]), index, visited, record.identity))
        # Rows with the same kinds of media, and then similar lengths, share a batch.
        found.sort(key=lambda one: (one[0], one[2].lengths[::-1], one[1]))
        self.examples = found
        self.taken, self.left_out = len(found), count - len(found)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with ThreadPoolExecutor() as pool:
            for _, group in itertools.groupby(self.examples, key=lambda one: one[0]):
                alike = list(group)
                for start in range(0, len(alike), self.rows):
                    examples = alike[start : start + self.rows]
                    count = len(examples)
                    if self.whole and count < self.rows:
                        continue
                    examples += examples[:1] * (self.rows - count)
                    media = list(pool.map(self._media, [examples[n][1:3] for n in self.own]))
                    batch = collate(
                        [visited.text for _, _, visited, _ in examples],
                        media,
                        self.processor,
                        lengths=[visited.lengths for _, _, visited, _ in examples],
                        shapes=self.shapes,
                        kinds=self.shown.of(examples[0][1]),
                        blank=self.blank_image,
                        own=self.own,
                        identities=[identity for *_, identity in examples],
                    )
                    self.processor.ignore(batch, np.array(self.own) >= count)
                    yield batch

    def _media(self, example: tuple[int, Visit]) -> dict[str, np.ndarray]:
        index, visited = example
        return media_of(visited.of(self.source[index]), self.processor)


class Validation:
    """Called with the trained parameters and the memory (by default the model's own), returns set -> loss of its
    held-out records: the weighted sum of the terms' means over all of them.

    ``sets``: set -> its batches of ``rows`` rows, this host's of them. All processes must call it.
    """

    def __init__(self, model: Model, sets: Mapping[str, Iterable[Mapping[str, np.ndarray]]], rows: int):
        def sums(train: Arrays, frozen: Arrays, memory: Arrays, batch: dict[str, jax.Array]) -> dict[str, Term]:
            terms, _ = merge(model.graph, train, frozen).loss(batch, memory=memory, step=0)
            return {name: Term(term.sums.sum(), term.counts.sum(), term.weight) for name, term in terms.items()}

        self.sums = jax.jit(sums, compiler_options=model.compiler_options)
        self.frozen, self.memory, self.sets = model.frozen, model.memory, sets
        self.put = partial(meshes.put_rows, model.mesh, own=meshes.local_rows(model.mesh, rows), rows=rows)

    def __call__(self, train: Arrays, memory: Arrays | None = None) -> dict[str, float]:
        memory = self.memory if memory is None else memory
        return {name: self._mean(train, memory, batches) for name, batches in self.sets.items()}

    def _mean(self, train: Arrays, memory: Arrays, batches: Iterable[Mapping[str, np.ndarray]]) -> float:
        totals: dict[str, np.ndarray] = {}
        weights: dict[str, float] = {}

        def add(terms: Mapping[str, Term]) -> None:
            for name, term in jax.device_get(terms).items():
                weights[name] = term.weight
                totals[name] = totals.get(name, np.zeros(2)) + np.array([term.sums, term.counts], np.float64)

        running: dict[str, Term] | None = None
        for batch in batches:
            now = self.sums(train, self.frozen, memory, self.put(batch))
            if running is not None:  # read while the devices compute this batch
                add(running)
            running = now
        if running is not None:
            add(running)
        return float(sum(weights[name] * total / max(count, 1.0) for name, (total, count) in totals.items()))


def together(found: Sequence[Validation | None]) -> Callable[..., dict[str, float]] | None:
    """The validations of several groups of sets as one; None if there is none."""
    there = [one for one in found if one is not None]
    if len(there) < 2:
        return there[0] if there else None
    return lambda *state: {name: loss for one in there for name, loss in one(*state).items()}


def held_out(directory: str, names: Iterable[str]) -> dict[str, prepared.Source | prepared.Joined]:
    """The validation splits of a mixture's sets, by set name, for sets that have one and do not train on it."""
    found = {}
    for name in names:
        bare, split = prepared.split_of(name, "train")
        if SPLIT in prepared.sizes(directory, bare) and SPLIT not in split.split("+"):
            found[bare] = prepared.open_set(directory, bare, SPLIT)
    return found


def prepare(
    model: Model,
    processor: BaseProcessor,
    sources: Mapping[str, prepared.Source | prepared.Joined],
    templates: Templates,
    *,
    rows: int,
    shapes: Sequence[Shape],
    seed: int,
    blank_image: bool = False,
    documents: DocumentsConfig = WHOLE,
) -> Validation | None:
    """The validation of these sets, in batches of ``rows``; None if none of their records can be used.

    Prints how many records are left out, if any are; see `HeldOut`.
    """
    sets = {}
    for name, source in sources.items():
        own = meshes.local_rows(model.mesh, rows)
        held = HeldOut(
            source,
            processor,
            templates,
            rows=rows,
            shapes=shapes,
            seed=seed,
            own=own,
            blank_image=blank_image,
            whole=model.config.in_batch,
            documents=documents,
        )
        if held.left_out:
            print(f"validation of {name}: {held.left_out} records left out, too long or without an answer", flush=True)
        if held.taken:
            sets[name] = held
    return Validation(model, sets, rows) if sets else None
