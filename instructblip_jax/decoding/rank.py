"""Log-likelihoods of candidate answers: the public `rank` (the paper's vocabulary ranking)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructblip_jax.decoding.protocol import Model
from instructblip_jax.decoding.text import prepare
from instructblip_jax.processors.base import BaseProcessor, Given
from instructblip_jax.systems.protocol import Media

SCORE_ELEMENTS = 2**26
"""Maximum number of float32 logits in a call; more candidates than fit are scored in groups."""
LENGTH_STEP = 4
"""Candidates are padded to a multiple of this many tokens, so that few programs are compiled."""


def rank(
    model: Model,
    processor: BaseProcessor,
    images: Given | Sequence[Given] | None = None,
    instructions: str | Sequence[str] = "",
    candidates: Sequence[str] | Sequence[Sequence[str]] = (),
    *,
    media: Mapping[str, Any] | None = None,
    include_end: bool = True,
    normalize: bool = False,
) -> np.ndarray:
    """Log-likelihood of each candidate answer, float32 [B, N], summed over its tokens and its end token.

    ``candidates``: N texts for all rows, or a list for each row; N is then the length of the longest list, and shorter
    ones are filled up with -inf. ``images``, ``media``: as in `generate`. Media and prompt are computed once per row,
    whatever the number of candidates. ``include_end=False`` leaves the end token out, as the original code does for
    Vicuna; ``normalize`` divides by the number of counted tokens. Raises ValueError for an empty list or an empty
    candidate, and what `generate` raises.
    """
    shown, batch = prepare(model, processor, images, instructions, media)
    lists = _lists(candidates, len(next(iter(batch.values()))))
    return score(model, processor, shown, batch, lists, include_end=include_end, normalize=normalize)


def score(
    model: Model,
    processor: BaseProcessor,
    media: Media,
    batch: Mapping[str, np.ndarray],
    lists: Sequence[Sequence[str]],
    *,
    include_end: bool = True,
    normalize: bool = False,
) -> np.ndarray:
    """As `rank`, for encoded media and a prepared batch of B instructions, with a list of candidates for each."""
    tokens = {text: processor.response(text) for row in lists for text in row}
    longest = max(map(len, tokens.values()))
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    most = max(map(len, lists))
    group = max(1, SCORE_ELEMENTS // (len(lists) * length * model.config.vocab_size))
    group = min(most, group)
    # The last group is padded, so that one program serves all groups.
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
    """One list of candidates per row. Raises ValueError naming what is wrong."""
    if isinstance(candidates, str):
        raise ValueError(f"candidates is a single text, {candidates!r}; a list of texts is needed")
    shared = all(isinstance(text, str) for text in candidates)
    lists = [list(candidates)] * rows if shared else [list(row) for row in candidates]
    if len(lists) != rows:
        raise ValueError(
            f"{rows} rows but {len(lists)} lists of candidates; give one list per row, or one for all rows"
        )
    for n, row in enumerate(lists):
        if not row or not all(isinstance(text, str) and text.strip() for text in row):
            raise ValueError(f"candidates of row {n} are {row!r}; at least one is needed, and none may be empty")
    return lists
