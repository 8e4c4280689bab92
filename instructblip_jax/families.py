"""The table of systems: what a ``config.json``'s model_type stands for. One entry a family; nothing else dispatches."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert.export import export as export_directory
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.rule import Rule
from instructblip_jax.convert.write import MAX_SHARD_BYTES, Written
from instructblip_jax.files import read_json
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.processors.instructblip import InstructBlipProcessor
from instructblip_jax.systems.instructblip import InstructBlipConfig
from instructblip_jax.systems.protocol import SystemConfig
from instructblip_jax.systems.trainable import path_filter, prefixes


@dataclasses.dataclass(frozen=True)
class Family:
    """How directories of one family are read and written.

    Attributes:
      trainable_sets: of its configurations (`systems.protocol.SystemConfig`).
      read_config: config.json's path -> the system's configuration. Raises ValueError naming file and field.
      rules: configuration -> path of each parameter -> its tensor.
      ignored: names of tensors that old files hold on top: buffers, aliases, what nothing reads.
      describe: (new directory, configuration) -> None; writes into a copy of a directory what changed of it.
      processor: (directory, configuration) -> the processor.
    """

    trainable_sets: Mapping[str, tuple[str, ...]]
    read_config: Callable[[Path], SystemConfig]
    rules: Callable[[Any], Mapping[str, Rule]]
    ignored: re.Pattern[str]
    describe: Callable[[Path, Any], None]
    processor: Callable[[Path, Any], BaseProcessor]


INSTRUCTBLIP = Family(
    InstructBlipConfig.trainable_sets,
    hf_instructblip.read_config,
    hf_instructblip.rules,
    hf_instructblip.IGNORED,
    hf_instructblip.describe,
    InstructBlipProcessor.from_directory,
)
FAMILIES: dict[str, Family] = {
    "instructblip": INSTRUCTBLIP,
    "instructblipvideo": INSTRUCTBLIP,
    "blip-2": INSTRUCTBLIP,
}
"""model_type -> its family."""


def family_of(directory: Path) -> Family:
    """The family of a model directory. Raises FileNotFoundError or ValueError naming the file and what is built."""
    path = directory / "config.json"
    kind = read_json(path).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{path}: model_type is {kind!r}; the systems built here are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[kind]


def trainable(name: str, model_type: str = "instructblip") -> Callable[[tuple, Any], bool]:
    """The NNX filter of a named trainable set of a system. Raises ValueError for an unknown name."""
    return path_filter(prefixes(name, FAMILIES[model_type].trainable_sets))


def read_config(directory: Path) -> SystemConfig:
    """The configuration of a model directory's system; see `family_of`."""
    return family_of(directory).read_config(directory / "config.json")


def export(
    out: str | Path,
    source: Path,
    config: SystemConfig,
    trained: Mapping[str, np.ndarray],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Written]:
    """Write the model directory ``source`` as ``out``, its trained tensors replaced; see `convert.export.export`."""
    family = family_of(source)
    return export_directory(
        out,
        source,
        trained,
        family.rules(config),
        family.ignored,
        max_shard_bytes=max_shard_bytes,
        describe=lambda directory: family.describe(directory, config),
    )
