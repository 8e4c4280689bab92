"""The prepared sets of a run, mixed into batches."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from functools import partial

import grain
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
from instructblip_jax.datasets.prompts import BARE, CONTINUED, WHOLE, training_templates
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run.config import RunConfig

TEMPLATE_SETS: Mapping[str, Templates] = {
    "instructions": training_templates(),
    "plain": PLAIN,
    "bare": BARE,
    "captions": WHOLE,
    "continued_captions": CONTINUED,
}
"""config.data.templates -> the templates."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
      directory: holds the prepared sets.
      sources: the sets that are drawn from, by name.
      mixture: the share of each of them; the shares add up to 1.
      templates: the words around a record's texts.
      steps: optimizer steps of the whole run.
      shapes: the static (instruction, response) lengths of batches.
      fitted: True if the shapes were fitted to the mixture, False if they are the configured lengths.
      own: int, this host's rows of a batch.
      batches: returns an iterator from the first batch on; ``features=`` replaces pictures by cached features.
    """

    directory: str
    sources: dict[str, Source | Joined]
    mixture: dict[str, float]
    templates: Templates
    steps: int
    shapes: list[Shape]
    fitted: bool
    own: np.ndarray
    batches: Callable[..., grain.DatasetIterator]

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Set -> a digest of its records."""
        return {name: source.digest for name, source in self.sources.items()}

    def check_shared(self) -> None:
        """Raise ValueError unless all processes see the same records; all of them must call it."""
        others = [name for name, digest in distributed.from_first(self.digests).items() if self.digests[name] != digest]
        if others:
            raise ValueError(
                f"{self.directory}: {', '.join(others)} holds other records here than for process 0; "
                "all hosts must see the same prepared sets"
            )


def open_sets(run: RunConfig, *, prepare: bool = True) -> dict[str, Source | Joined]:
    """The sets of the mixture. Missing ones of the embedded digits world are prepared, or left out (not ``prepare``).

    Raises FileNotFoundError or ValueError naming the directory of a set that is missing or lacks the split.
    """
    directory, names = run.data.directory, {name: split_of(name, "train") for name in run.mixture.sets}
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
    sizes = {name: len(source) for name, source in sources.items()}
    mixture = probabilities(sizes, exponent=run.mixture.exponent, weights=run.mixture.weights, caps=run.mixture.caps)
    drawn = {name: sources[name] for name in mixture}
    templates = TEMPLATE_SETS[run.data.templates]
    shapes: list[Shape] = []
    if run.data.shapes:
        longest = (max(run.data.instruction_lengths), max(run.data.response_lengths))
        lengths = sample_lengths(drawn, mixture, processor, templates, seed=run.seed, largest=longest)
        shapes = fit(lengths, longest, run.data.shapes)
    own = meshes.local_rows(mesh, run.batch_size)
    batches = partial(
        training_batches,
        drawn,
        mixture,
        processor,
        templates,
        batch_size=run.batch_size,
        instruction_lengths=run.data.instruction_lengths,
        response_lengths=run.data.response_lengths,
        seed=run.seed,
        shapes=shapes,
        window=run.data.window,
        blank_image=run.data.blank_image,
        own=own,
    )
    return Data(
        directory=run.data.directory,
        sources=drawn,
        mixture=mixture,
        templates=templates,
        steps=total_steps(run, sum(map(len, drawn.values()))),
        shapes=shapes or grid(run.data.instruction_lengths, run.data.response_lengths),
        fitted=bool(shapes),
        own=own,
        batches=batches,
    )


def total_steps(run: RunConfig, records: int) -> int:
    """``steps``, or those of ``epochs`` passes over the records; the last batch of a pass is always full."""
    return run.steps or math.ceil(run.epochs * records / run.batch_size)
