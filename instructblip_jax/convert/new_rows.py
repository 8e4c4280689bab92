"""Embedding tables with more rows than their source has, for new tokens of the vocabulary."""

from collections.abc import Iterable

import numpy as np

from instructblip_jax.convert.write import Lazy, Tensor, read

SCALE = 0.02
"""Standard deviation of new values: BERT's `initializer_range`, which the libraries use for all these models."""


ROWS_MULTIPLE = 64
"""A table that must grow is padded to a multiple of this number, as in the public repositories."""


def grow(tensors: dict[str, Tensor], names: Iterable[str], size: int, seed: int) -> None:
    """Extend those of the tables ``names`` that have fewer rows than the vocabulary has tokens, ``size``."""
    rows = -(-size // ROWS_MULTIPLE) * ROWS_MULTIPLE
    for name in names:
        if tensors[name].shape[0] < size:
            tensors[name] = with_rows(tensors[name], rows, seed)


def with_rows(table: Tensor, rows: int, seed: int) -> Lazy:
    """``table`` [n, D] -> [rows, D] of the same type. New rows are normal(0, 0.02), reproducible by seed and sizes."""
    old, width = table.shape

    def grow() -> np.ndarray:
        new = SCALE * np.random.default_rng(seed).standard_normal((rows - old, width), np.float32)
        return np.concatenate([read(table), new.astype(table.dtype)])

    return Lazy((rows, width), table.dtype, grow)
