"""Logits processors: the options' effect on the scores of the next token, in Hugging Face's order."""

import jax
import jax.numpy as jnp

from instructblip_jax.decoding.options import Options


def adjust(scores: jax.Array, options: Options, prompt: jax.Array, out: jax.Array, index: jax.Array) -> jax.Array:
    """Apply penalties and bans to scores float32 [B, N, V]: logits, or log-probabilities in beam search.

    ``prompt`` int [B, S]: ids before the answer, negative for placeholders. ``out`` int [B, N, T]: the answers so far,
    of which the first ``index`` tokens are written.
    """
    vocab = scores.shape[-1]
    written = jnp.where(jnp.arange(out.shape[2]) < index, out, vocab)  # an id that scatters drop
    shared = jnp.broadcast_to(prompt[:, None], (*out.shape[:2], prompt.shape[1]))
    shared = jnp.where(shared < 0, vocab, shared)  # a placeholder without an id
    if options.penalize:
        seen = jnp.concatenate([shared, written], axis=2) if options.penalize_prompt else written
        scores = _penalize(scores, seen, options.repetition_penalty)
    if options.no_repeat_ngram_size:
        text = jnp.concatenate([shared, written], axis=2)
        scores = _ban_repeats(scores, text, prompt.shape[1] + index, options.no_repeat_ngram_size)
    if options.forbidden:
        scores = scores.at[..., jnp.array(options.forbidden)].set(-jnp.inf)
    ends = jnp.isin(jnp.arange(vocab), jnp.array(options.ends))
    return jnp.where(ends & (index < options.min_new_tokens), -jnp.inf, scores)


def warp(scores: jax.Array, options: Options) -> jax.Array:
    """Warp scores [B, N, V] for sampling: temperature, then top-k, then top-p (nucleus, arXiv 1904.09751)."""
    scores = scores / options.temperature
    vocab = scores.shape[-1]
    keep = len(options.ends) + 1 if options.num_beams > 1 else 1  # a beam must be able to continue besides ending
    if 0 < options.top_k < vocab:
        least = jax.lax.top_k(scores, max(options.top_k, keep))[0][..., -1:]
        scores = jnp.where(scores < least, -jnp.inf, scores)
    if options.nucleus:
        ascending = jnp.argsort(scores, axis=-1)
        below = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(scores, ascending, axis=-1), axis=-1), axis=-1)
        drop = (below <= 1 - options.top_p) & (jnp.arange(vocab) < vocab - keep)
        drop = jnp.put_along_axis(jnp.zeros_like(drop), ascending, drop, axis=-1, inplace=False)
        scores = jnp.where(drop, -jnp.inf, scores)
    return scores


def _scatter(scores: jax.Array, ids: jax.Array, values: jax.Array | float) -> jax.Array:
    """Set scores [B, N, V] to ``values`` at ids [B, N, T]; ids beyond the vocabulary are ignored."""
    batch, rows = jnp.indices(ids.shape[:2], sparse=True)
    return scores.at[batch[..., None], rows[..., None], ids].set(values, mode="drop")


def _penalize(scores: jax.Array, ids: jax.Array, penalty: jax.Array | float) -> jax.Array:
    """Make seen ids less likely (CTRL, arXiv 1909.05858): positive scores are divided, negative ones multiplied."""
    chosen = jnp.take_along_axis(scores, jnp.minimum(ids, scores.shape[-1] - 1), axis=-1)
    return _scatter(scores, ids, jnp.where(chosen < 0, chosen * penalty, chosen / penalty))


def _ban_repeats(scores: jax.Array, text: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Ban every id that would repeat an n-gram of the first ``length`` ids of ``text`` [B, N, T]; n = ``size``."""
    windows = text.shape[2] - size + 1
    if windows < 1:
        return scores
    start = jnp.maximum(length - (size - 1), 0)
    last = jax.lax.dynamic_slice_in_dim(text, start, size - 1, axis=2)  # [B, N, size - 1]
    same = jnp.arange(windows) + size <= length
    for n in range(size - 1):
        same = same & (text[:, :, n : n + windows] == last[:, :, n : n + 1])
    same = jnp.broadcast_to(same, (*text.shape[:2], windows))
    return _scatter(scores, jnp.where(same, text[:, :, size - 1 :], scores.shape[-1]), -jnp.inf)
