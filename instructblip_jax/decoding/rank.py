"""Candidate answers by their log-likelihood: the public `rank` (the paper's vocabulary ranking)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructblip_jax.decoding.protocol import Model, Processor
from instructblip_jax.decoding.text import prepare
from instructblip_jax.systems.protocol import Media

SCORE_ELEMENTS = 2**26
"""Logits that one call may hold (float32): candidates are scored in groups, so that many of them fit."""
LENGTH_STEP = 4


def rank(
    model: Model,
    processor: Processor,
    images: Any,
    instructions: str | Sequence[str],
    candidates: Sequence[str] | Sequence[Sequence[str]],
    *,
    include_end: bool = True,
    normalize: bool = False,
) -> np.ndarray:
    """float32 [B, N]: the log-likelihood of each candidate answer, summed over its tokens and its end token.

    ``candidates``: N texts for all rows, or a list for each row (N is the longest; what a shorter one lacks is -inf).
    Image, instruction and prompt are computed once a row, whatever the number of candidates. ``include_end=False``
    leaves the end token out, as the original does for Vicuna; ``normalize`` divides by the number of counted tokens.
    Raises ValueError for an empty list or an empty candidate, and as `generate` does.
    """
    media, batch = prepare(model, processor, images, instructions)
    lists = _lists(candidates, len(next(iter(batch.values()))))
    return score(model, processor, media, batch, lists, include_end=include_end, normalize=normalize)


def score(
    model: Model,
    processor: Processor,
    media: Media,
    batch: Mapping[str, np.ndarray],
    lists: Sequence[Sequence[str]],
    *,
    include_end: bool = True,
    normalize: bool = False,
) -> np.ndarray:
    """`rank` on encoded media and a prepared batch of B instructions, with a list of candidates each."""
    tokens = {text: processor.response(text) for row in lists for text in row}
    longest = max(map(len, tokens.values()))
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    most = max(map(len, lists))
    group = max(1, SCORE_ELEMENTS // (len(lists) * length * model.config.vocab_size))
    group = min(most, group)
    # The last group is filled up, so that one program serves all.
    ids = np.zeros((len(lists), -(-most // group) * group, length), np.int32)
    counted = np.zeros(ids.shape, bool)
    for b, row in enumerate(lists):
        for n, text in enumerate(row):
            ids[b, n, : len(tokens[text])] = tokens[text]
            counted[b, n, : len(tokens[text]) - (not include_end)] = True
    context = model.prefill(media, batch)
    groups = [slice(start, start + group) for start in range(0, most, group)]
    sums = [model.log_likelihood(context, ids[:, part], counted[:, part]) for part in groups]
    total, number = np.concatenate(sums, axis=1)[:, :most], counted[:, :most].sum(axis=2)
    if normalize:
        total = total / np.maximum(number, 1)
    present = np.arange(most) < np.array([len(row) for row in lists])[:, None]
    return np.where(present, total, -np.inf).astype(np.float32)


def _lists(candidates: Sequence[Any], rows: int) -> list[list[str]]:
    """One list of candidates a row. Raises ValueError naming what cannot be."""
    if isinstance(candidates, str):
        raise ValueError(f"candidates is one text, {candidates!r}; a list of them is needed")
    shared = all(isinstance(text, str) for text in candidates)
    lists = [list(candidates)] * rows if shared else [list(row) for row in candidates]
    if len(lists) != rows:
        raise ValueError(f"{rows} rows but {len(lists)} lists of candidates; give one for each, or one for all")
    for n, row in enumerate(lists):
        if not row or not all(isinstance(text, str) and text.strip() for text in row):
            raise ValueError(f"candidates of row {n} are {row!r}; at least one is needed, and none may be empty")
    return lists
