"""A T5 or FlanT5 of its public files, which continues texts greedily."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from instructblip_jax import mesh as meshes
from instructblip_jax.convert.load import load
from instructblip_jax.convert.parts import t5
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.decoding.text import LENGTH_STEP, generate_ids
from instructblip_jax.family import Family
from instructblip_jax.files import read_json
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.processors.tokenizer import TextTokenizer
from instructblip_jax.systems.build import abstract
from instructblip_jax.systems.texts import TextConfig

Write = Callable[[Sequence[str]], list[str]]
"""Texts -> what the model answers to each of them."""
ROWS = 32
"""Texts of a batch."""
LONGEST = 512
"""Tokens of a text that are read, the last ones: T5's own length."""


def _read_config(path: Path) -> Any:
    """The `TextConfig` of config.json. Raises ValueError for a directory that holds another kind of model."""
    raw = read_json(path)
    if raw.get("model_type") != "t5":
        raise ValueError(
            f"{path}: model_type is {raw.get('model_type')!r}; questions are made by a T5, such as flan-t5-xl, in "
            "Hugging Face's files with safetensors"
        )
    return TextConfig(t5.read_config(path, raw))


def _no_processor(directory: Path, config: Any) -> BaseProcessor:
    raise ValueError(f"{directory}: a language model alone has no processor of media")


FAMILY = Family(
    TextConfig.trainable_sets,
    _read_config,
    lambda config: {rule.ours: rule for rule in t5.rules("llm/", "")},
    lambda config: re.compile(t5.ignored("")),
    lambda directory, config: None,
    _no_processor,
)
"""The rules by which its files are read."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """Answers greedily, `ROWS` texts at a time. ``longest``: tokens of an answer at most."""

    model: Model
    tokenizer: TextTokenizer
    longest: int

    @classmethod
    def open(
        cls, model: str | Path, mesh: Mesh | None = None, *, dtype: str = "bfloat16", longest: int = 64
    ) -> "Writer":
        """Read a directory. ``mesh``: None is one device. Raises FileNotFoundError or ValueError naming the file."""
        directory = Path(model)
        config = _read_config(directory / "config.json")
        mesh = meshes.single_device_mesh() if mesh is None else mesh
        graph, train, frozen = abstract(config, mesh=mesh, dtype=dtype)
        arrays = load(FAMILY.rules(config), train | frozen, open_shards(directory), FAMILY.ignored(config))
        tokenizer = TextTokenizer(directory)
        return cls(Model(config, graph, {}, arrays, mesh, directory, FAMILY), tokenizer, longest)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """See `Write`."""
        found: list[str] = []
        for start in range(0, len(texts), ROWS):
            found += self._written(texts[start : start + ROWS])
        return found

    def _written(self, texts: Sequence[str]) -> list[str]:
        rows = [self.tokenizer.encode(text, LONGEST) for text in texts]
        length = -(-max(map(len, rows)) // LENGTH_STEP) * LENGTH_STEP
        ids = np.full((ROWS, length), self.tokenizer.pad_id, np.int32)
        mask = np.zeros_like(ids)
        for n in range(ROWS):  # rows that are left over repeat the first, and are dropped
            row = rows[n if n < len(rows) else 0]
            ids[n, : len(row)], mask[n, : len(row)] = row, 1
        batch = {"input_ids": ids, "attention_mask": mask}
        answers = generate_ids(self.model, batch, media={}, max_new_tokens=self.longest)
        return [self.tokenizer.decode(row).strip() for row in answers.tolist()[: len(texts)]]
