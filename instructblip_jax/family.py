"""A family of systems: reading, writing and assembling its model directories (`families` is the table)."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert.assemble import Draft
from instructblip_jax.convert.load import NONE
from instructblip_jax.convert.rule import Rule
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.systems.protocol import SystemConfig

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Family:
    """Model directories of one family: reading, writing, assembling.

    Attributes:
      trainable_sets: those of its configurations (`systems.protocol.SystemConfig`).
      read_config: path of config.json -> the system's configuration. Raises ValueError naming file and field.
      rules: configuration -> path of each parameter -> its tensor.
      ignored: configuration -> names of extra tensors in old files: buffers, aliases, unused tables.
      describe: (copy of a directory, configuration) -> None; edits its configuration files if the system's options
        changed.
      processor: (directory, configuration) -> the processor.
      draft: (model_type, part -> its directory, seed, choices) -> a new directory from parts; None if it cannot be
        assembled (`convert.ingredients`).
      unread: configuration -> names of tensors that the system does not use, and that an export keeps.
      original: (a file of the authors' own, its tensors, BERT's directory, seed) -> a model directory of them, and the
        names that are skipped; None if the tensors are another family's.
      replaced: (a file of the authors' own with trained parts, its tensors, a model directory) -> the configuration
        that has them, the tensors that replace the directory's or are added to them, and the names that are skipped;
        None if there are no such files.
      modules: prefixes of tensor names in published files, and those of the modules in Hugging Face's class if they
        differ: adapters are named after the latter.
    """

    trainable_sets: Mapping[str, tuple[str, ...]]
    read_config: Callable[[Path], SystemConfig]
    rules: Callable[[Any], Mapping[str, Rule]]
    ignored: Callable[[Any], re.Pattern[str]]
    describe: Callable[[Path, Any], None]
    processor: Callable[[Path, Any], BaseProcessor]
    draft: Callable[..., Draft] | None = None
    unread: Callable[[Any], re.Pattern[str]] = lambda config: NONE
    modules: tuple[tuple[str, str], ...] = ()
    original: Callable[[Path, Tensors, Path, int], tuple[Draft, list[str]] | None] = lambda *_: None
    replaced: Callable[[Path, Tensors, Path], tuple[Any, dict[str, np.ndarray], list[str]]] | None = None

    def rules_for(self, directory: Path, config: Any) -> dict[str, Rule]:
        """The rules, with the names used in a model directory's files."""
        names = open_shards(directory).shapes
        return {path: rule.spelled(names) for path, rule in self.rules(config).items()}

    def without_rule(self, config: Any) -> re.Pattern[str]:
        """Names of the tensors that need no rule: `ignored` and `unread` ones."""
        return re.compile(f"{self.ignored(config).pattern}|{self.unread(config).pattern}")
