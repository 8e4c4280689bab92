"""Image-text matching: hard negatives drawn by similarity, and the loss of matching and non-matching pairs.

Similarities are logits float32 [B, B] with queries as rows and candidates as columns. ``same`` bool [B, B] marks
candidates that are not negatives: a row's own pair and, if images are identified, all pairs of its image.
"""

import jax
import jax.numpy as jnp

from instructblip_jax.objectives.term import Term

MATCH = 1
"""Index of the matching logit."""
FLOOR = 1e-4
"""Added by BLIP to each probability, so that no candidate is impossible."""
CLOSED = -10000.0
"""BLIP-2's logit of a candidate that is not a negative."""


def check_rows(rows: int) -> None:
    """Raise ValueError if a batch has no negatives."""
    if rows < 2:
        raise ValueError(
            f"a batch of {rows} pair has no negatives: image-text matching needs a global batch of 2 or more; "
            "raise batch_size"
        )


def chances(similarity: jax.Array, same: jax.Array, floor: float = 0.0) -> jax.Array:
    """The probability that each candidate is drawn, float32 [B, B], up to a factor per row, as in ALBEF and, with
    ``floor`` at `FLOOR`, in BLIP's pre-training. It has no gradient."""
    likely = jax.nn.softmax(jax.lax.stop_gradient(similarity), axis=1) + floor
    return jnp.where(same, 0.0, likely)


def closed_chances(similarity: jax.Array, same: jax.Array) -> jax.Array:
    """The same as in BLIP-2: candidates that are not negatives are set to `CLOSED` before the softmax, so that no row
    underflows."""
    return jax.nn.softmax(jnp.where(same, CLOSED, jax.lax.stop_gradient(similarity)), axis=1)


def pick(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Weights [B, N] and uniform numbers [B] -> int32 [B]: each row's first candidate whose cumulative weight exceeds
    its number times the row's sum."""
    reached = jnp.cumsum(weights, axis=1)
    # Rounding may leave the last sum at the bound itself: take the last candidate with a weight, not the first one.
    bound = jnp.minimum(uniform[:, None] * reached[:, -1:], jnp.nextafter(reached[:, -1:], 0.0))
    return jnp.argmax(reached > bound, axis=1).astype(jnp.int32)


def matching_term(positive: jax.Array, image_negative: jax.Array, text_negative: jax.Array) -> Term:
    """Each row's cross-entropy of three pairs with logits float32 [B, 2]: the row's own, its text with another image,
    and its image with another text; averaged over all 3 B."""
    own = jax.nn.log_softmax(positive, axis=1)[:, MATCH]
    others = [jax.nn.log_softmax(x, axis=1)[:, 1 - MATCH] for x in (image_negative, text_negative)]
    return Term(-(own + others[0] + others[1]), jnp.full(own.shape, 3.0, jnp.float32))
