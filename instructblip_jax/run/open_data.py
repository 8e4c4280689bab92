"""The prepared datasets of a run, mixed into batches."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from instructblip_jax import distributed
from instructblip_jax import mesh as meshes
from instructblip_jax.data.buckets import Shape, fit
from instructblip_jax.data.collate import grid
from instructblip_jax.data.loader import sample_lengths, training_batches
from instructblip_jax.data.mixture import probabilities
from instructblip_jax.data.prepared import Joined, Source, is_prepared, open_set, split_of
from instructblip_jax.data.templates import Templates
from instructblip_jax.datasets.digits.prepare import SETS, prepare_missing
from instructblip_jax.datasets.digits.templates import PLAIN
from instructblip_jax.datasets.prompts import BARE, CONTINUED, WHOLE, sense_templates, training_templates
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run.config import GroupConfig, RunConfig
from instructblip_jax.run.together import Together
from instructblip_jax.train.groups import joined, parted

TEMPLATE_SETS: Mapping[str, Templates] = {
    "instructions": training_templates(),
    "senses": sense_templates(),
    "plain": PLAIN,
    "bare": BARE,
    "captions": WHOLE,
    "continued_captions": CONTINUED,
}
"""config.data.templates -> the templates."""
APART = 7919
"""Offset between the seeds of groups, whose sets are shuffled independently."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Sets that share the batches of a step; a run without groups has one with the name "".

    Attributes:
      rows: per batch.
      weight: of the group's loss.
      mixture: the probability of each of its sets; they sum to 1.
      shapes: the static (instruction, response) lengths of batches.
      fitted: True if the shapes were fitted to the mixture, False if they are the configured lengths.
      pictures: the static numbers of images per row (`DataConfig.pictures`).
      own: int, this host's rows of a batch.
      batches: returns an iterator from the first batch on; ``features=`` replaces images by cached features.
    """

    rows: int
    weight: float
    mixture: dict[str, float]
    shapes: list[Shape]
    fitted: bool
    pictures: tuple[int, ...]
    own: np.ndarray
    batches: Callable[..., grain.DatasetIterator]


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
      directory: the directory of the prepared datasets.
      sources: the sets of the mixture, by name.
      templates: the instruction templates.
      steps: optimizer steps of the whole run.
      groups: the groups of sets, each with a batch in every step.
    """

    directory: str
    sources: dict[str, Source | Joined]
    templates: Templates
    steps: int
    groups: dict[str, Group]

    @property
    def mixture(self) -> dict[str, float]:
        """The fraction of each set in the rows of a step."""
        rows = sum(group.rows for group in self.groups.values())
        return {
            name: share * (group.rows / rows) for group in self.groups.values() for name, share in group.mixture.items()
        }

    @property
    def weights(self) -> dict[str, float]:
        """Group -> weight of its loss; {} without groups."""
        return {name: group.weight for name, group in self.groups.items() if name}

    @property
    def own(self) -> np.ndarray:
        """int, this host's rows of a step, for all groups one after the other."""
        starts = itertools.accumulate((group.rows for group in self.groups.values()), initial=0)
        return np.concatenate([group.own + start for group, start in zip(self.groups.values(), starts, strict=False)])

    def batches(self, **options: Any) -> Any:
        """An iterator over the batches of all steps; ``options`` are those of `Group.batches`."""
        if "" in self.groups:
            return self.groups[""].batches(**options)
        firsts = itertools.accumulate((len(group.mixture) for group in self.groups.values()), initial=0)
        return Together(
            {
                name: (group.batches(**options), first)
                for (name, group), first in zip(self.groups.items(), firsts, strict=False)
            }
        )

    def put(self, mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A step's arrays of this host -> global arrays."""
        parts = parted(batch)
        if "" in self.groups:
            return meshes.put_rows(mesh, batch, self.groups[""].own, self.groups[""].rows)
        return joined({n: meshes.put_rows(mesh, parts[n], one.own, one.rows) for n, one in self.groups.items()})

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Set -> a digest of its records."""
        return {name: source.digest for name, source in self.sources.items()}

    def check_shared(self) -> None:
        """Raise ValueError unless all processes see the same records; all of them must call it."""
        others = [name for name, digest in distributed.from_first(self.digests).items() if self.digests[name] != digest]
        if others:
            raise ValueError(
                f"{self.directory}: {', '.join(others)} has other records here than for process 0; "
                "all hosts must see the same prepared sets"
            )


def open_sets(run: RunConfig, *, prepare: bool = True) -> dict[str, Source | Joined]:
    """The sets of the mixture. Missing ones of the embedded digits world are prepared, or left out (not ``prepare``).

    Raises FileNotFoundError or ValueError naming the directory of a set that is missing or lacks the split.
    """
    directory, names = run.data.directory, {name: split_of(name, "train") for name in run.mixture.all_sets}
    if prepare:
        prepare_missing(directory, [bare for bare, _ in names.values()])
    return {
        name: open_set(directory, bare, split)
        for name, (bare, split) in names.items()
        if prepare or bare not in SETS or is_prepared(directory, bare)
    }


def open_data(run: RunConfig, processor: BaseProcessor, mesh: Mesh) -> Data:
    """Open and mix the sets. Raises as `open_sets` and `probabilities` do."""
    sources = open_sets(run)
    alone = GroupConfig(run.mixture.sets, run.batch_size)
    groups = {
        name: _group(run, group, sources, processor, mesh, (run.seed + APART * number) % 2**32)
        for number, (name, group) in enumerate((run.mixture.groups or {"": alone}).items())
    }
    drawn = {name: sources[name] for group in groups.values() for name in group.mixture}
    return Data(
        directory=run.data.directory,
        sources=drawn,
        templates=TEMPLATE_SETS[run.data.templates],
        steps=total_steps(run, sum(map(len, drawn.values()))),
        groups=groups,
    )


def _group(
    run: RunConfig,
    group: GroupConfig,
    sources: Mapping[str, Source | Joined],
    processor: BaseProcessor,
    mesh: Mesh,
    seed: int,
) -> Group:
    sizes = {name: len(sources[name]) for name in group.sets}
    weights, caps = run.mixture.weights, run.mixture.caps
    if run.mixture.groups:  # their names have been checked together
        weights = {name: weight for name, weight in weights.items() if name in sizes}
        caps = {name: cap for name, cap in caps.items() if name in sizes}
    mixture = probabilities(sizes, exponent=run.mixture.exponent, weights=weights, caps=caps)
    drawn = {name: sources[name] for name in mixture}
    templates, pictures = TEMPLATE_SETS[run.data.templates], group.pictures or run.data.pictures
    prompts = group.instruction_lengths or run.data.instruction_lengths
    responses = group.response_lengths or run.data.response_lengths
    processor = processor.holding(pictures) if group.pictures else processor
    shapes: list[Shape] = []
    if run.data.shapes:
        longest = (max(prompts), max(responses))
        sampled = sample_lengths(
            drawn, mixture, processor, templates, seed=seed, largest=longest, documents=run.data.documents
        )
        shapes = fit(sampled, longest, run.data.shapes)
    own = meshes.local_rows(mesh, group.batch_size)
    batches = partial(
        training_batches,
        drawn,
        mixture,
        processor,
        templates,
        batch_size=group.batch_size,
        instruction_lengths=prompts,
        response_lengths=responses,
        seed=seed,
        shapes=shapes,
        window=run.data.window,
        blank_image=run.data.blank_image,
        own=own,
        documents=run.data.documents,
    )
    return Group(
        rows=group.batch_size,
        weight=group.weight,
        mixture=mixture,
        shapes=shapes or grid(prompts, responses),
        fitted=bool(shapes),
        pictures=pictures,
        own=own,
        batches=batches,
    )


def total_steps(run: RunConfig, records: int) -> int:
    """``steps``, or those of ``epochs`` passes over the records; the last batch of a pass is always full."""
    return run.steps or math.ceil(run.epochs * records / run.batch_size)
