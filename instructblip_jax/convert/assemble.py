"""Assemble a model directory of any system from parts of other models. Tensors are copied unchanged, or drawn by a
seed."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from re import Pattern
from typing import Any

import numpy as np

from instructblip_jax.convert.export import kept
from instructblip_jax.convert.load import check
from instructblip_jax.convert.new_directory import new_directory
from instructblip_jax.convert.rule import Rule, Shape
from instructblip_jax.convert.shards import Shards
from instructblip_jax.convert.vocabulary import Vocabulary
from instructblip_jax.convert.write import CODES, Lazy, Tensor, Written, whole_files, write_shards
from instructblip_jax.files import write_json
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.systems.build import abstract
from instructblip_jax.systems.protocol import SystemConfig

Rules = Mapping[str, Rule]


@dataclasses.dataclass(frozen=True)
class Draft:
    """A model directory before it is written.

    Attributes:
      tensors: Hugging Face name -> tensor, in the order in which they are written.
      files: file name -> its JSON; config.json is one of them.
      vocabularies: folder ("" is the model's own) -> its tokenizer.
      source: the part to name in errors if config.json and the tensors do not fit together.
      draw: (name, shape) -> a new tensor for one that config.json requires and no part has; None if one must.
    """

    tensors: dict[str, Tensor]
    files: dict[str, dict[str, Any]]
    vocabularies: dict[str, Vocabulary]
    source: Path
    draw: Callable[[str, Shape], Lazy | None] = lambda name, shape: None


def assemble(
    out: Path,
    draft: Draft,
    read_config: Callable[[Path], SystemConfig],
    rules: Callable[[Any], Rules],
    ignored: Callable[[Any], Pattern[str]],
    without_rule: Callable[[Any], Pattern[str]],
    *,
    max_shard_bytes: int,
    link: bool,
) -> list[Written]:
    """Write a drafted directory, completely or not at all; see `families.assemble`."""
    tensors = dict(draft.tensors)
    linked = {name for names in whole_files(tensors).values() for name in names} if link else set()
    size = sum(tensor.nbytes for name, tensor in tensors.items() if name not in linked)
    with new_directory(out, size) as directory:
        for file, content in draft.files.items():
            write_json(directory / file, content)
        for folder, vocabulary in draft.vocabularies.items():
            vocabulary.write(directory / folder)
        # The parts fit their own configurations; only the combination may still be wrong.
        try:
            config = read_config(directory / "config.json")
        except ValueError as error:
            raise ValueError(str(error).replace(str(directory), str(draft.source))) from error
        table, extra = rules(config), ignored(config)
        for name, shape in wanted(config, table).items():
            if name not in tensors and (new := draft.draw(name, shape)) is not None:
                tensors[name] = new
        names = kept(table, extra, tensors)
        shapes = {name: tensors[name].shape for name in names}
        types = {name: CODES[tensors[name].dtype] for name in names}
        check_fits(config, table, Shards(draft.source, {}, shapes, types), without_rule(config))
        return write_shards(directory, ((name, tensors[name]) for name in names), max_shard_bytes, link=link)


def wanted(config: SystemConfig, rules: Rules) -> dict[str, Shape]:
    """Name -> shape of every tensor that a configuration requires, without those that no model directory has."""
    shapes: dict[str, Shape] = {}
    for path, leaf in _parameters(config).items():
        if rules[path].new is not None:
            continue
        shapes |= dict.fromkeys(rules[path].names(leaf.shape), rules[path].tensor_shape(leaf.shape))
    return shapes


def check_fits(config: SystemConfig, rules: Rules, shards: Shards, ignored: Pattern[str]) -> None:
    """Raise one ValueError that lists all tensors which do not fit the configuration."""
    check(rules, _parameters(config), shards, ignored)


def _parameters(config: SystemConfig) -> dict[str, Any]:
    _, train, frozen = abstract(config, mesh=single_device_mesh(), dtype="float32")
    return train | frozen


def normal(shape: Shape, scale: float, *seed: int) -> Lazy:
    """A new float32 tensor, normal(0, scale), drawn when it is written; the same for the same seed."""

    def make() -> np.ndarray:
        return np.float32(scale) * np.random.default_rng(seed).standard_normal(shape, np.float32)

    return Lazy(shape, np.dtype(np.float32), make)


def constant(shape: Shape, value: float) -> Lazy:
    """A new constant float32 tensor, created when it is written."""
    return Lazy(shape, np.dtype(np.float32), lambda: np.full(shape, value, np.float32))


def uniform(shape: Shape, *seed: int, bound: float = 0.0) -> Lazy:
    """A new float32 tensor, uniform(-bound, bound), drawn when it is written; the same for the same seed. Without
    ``bound`` it is a weight [out, in] initialised as in torch: 1 / sqrt(in)."""
    bound = bound or shape[-1] ** -0.5

    def make() -> np.ndarray:
        return np.random.default_rng(seed).uniform(-bound, bound, shape).astype(np.float32)

    return Lazy(shape, np.dtype(np.float32), make)
