"""Loss terms: named sums with counts, so that padding, accumulation and the number of devices never change a mean."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.tree_util.register_dataclass, data_fields=["sums", "counts"], meta_fields=["weight"])
@dataclasses.dataclass(frozen=True)
class Term:
    """One term of a loss, per row: float32 [B] sums and the [B] counts that they are averaged over.

    The counts must depend only on the data, never on parameters. The loss of a batch is the weighted sum over terms of
    sum(sums) / sum(counts), each over the whole global batch.
    """

    sums: jax.Array
    counts: jax.Array
    weight: float = 1.0


Terms = Mapping[str, Term]


def mean(terms: Terms) -> jax.Array:
    """The loss of a whole batch, float32 scalar. A term without a count adds nothing."""
    first, *more = (term.weight * mean_of(term.sums.sum(), term.counts.sum()) for term in terms.values())
    return sum(more, first)


def mean_of(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count, and 0 where nothing was counted."""
    return total / jnp.maximum(count, 1)
