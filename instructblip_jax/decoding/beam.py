"""Beam search as in Hugging Face, with length penalty and all three kinds of early stopping.

A score is the sum of log-probabilities after penalties and bans. Each step ranks max(2, 1 + number of end tokens) *
num_beams candidates: those that end are finished sequences if they are among the first ``num_beams``; the best of the
others are the running sequences of the next step. State and variables are named as in transformers' `_beam_search`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from instructblip_jax.decoding import draws
from instructblip_jax.decoding.logits import adjust, warp
from instructblip_jax.decoding.options import Options
from instructblip_jax.systems.protocol import Answers, Context

State = dict[str, Any]
NEVER = -1e9
"""Added to a score that must not win. Finite, as in Hugging Face, so that such scores keep the same order."""


def begin(system: Answers, context: Context, options: Options, key: jax.Array) -> State:
    """State before the first token: one running beam (the others have score `NEVER`) and no finished sequence.

    Running beams: "ids" int32 [B, N], the tokens to feed next, "running_sequences" int32 [B, N, T],
    "running_beam_scores" float32 [B, N] and "origin" int32 [B, N, T], the cache row of each token: when beams are
    reordered, the cache is not moved. Finished ones: "sequences" int32 [B, N, T], "beam_scores" float32 [B, N] and
    "is_sent_finished" bool [B, N], False for slots that are still empty. "heuristic_unsatisfied" bool [B, 1]: a running
    beam may still beat the worst finished sequence. "has_unfinished": bool, some example is not done. "finite": bool,
    all logits so far were finite.
    """
    beams, batch = options.num_beams, context["first"].shape[0]
    return {
        "index": jnp.int32(0),
        "ids": jnp.broadcast_to(context["first"][:, None], (batch, beams)).astype(jnp.int32),
        "running_sequences": jnp.full((batch, beams, options.capacity), options.pad, jnp.int32),
        "running_beam_scores": jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, NEVER), (batch, beams)),
        "sequences": jnp.full((batch, beams, options.capacity), options.pad, jnp.int32),
        "beam_scores": jnp.full((batch, beams), NEVER),
        "is_sent_finished": jnp.zeros((batch, beams), bool),
        "heuristic_unsatisfied": jnp.ones((batch, 1), bool),
        "has_unfinished": jnp.bool_(True),
        "finite": jnp.bool_(True),
        "origin": jnp.broadcast_to(jnp.arange(beams)[:, None], (batch, beams, options.capacity)),
        "cache": system.init_cache(context, beams, options.capacity),
        "key": key,
    }


def unfinished(state: State, options: Options) -> jax.Array:
    """Bool scalar: True while any example may still find a better answer."""
    return (state["index"] < options.max_new_tokens) & state["has_unfinished"]


def _pick(rows: jax.Array, order: jax.Array) -> jax.Array:
    """Select rows [B, N, ...] by indices ``order`` [B, M] -> [B, M, ...]."""
    return jnp.take_along_axis(rows, order.reshape(*order.shape, *[1] * (rows.ndim - 2)), axis=1)


def step(system: Answers, context: Context, state: State, options: Options) -> State:
    """Decode one more token of every beam."""
    index, beams = state["index"], options.num_beams
    logits, cache = system.decode(state["ids"][..., None], context, state["cache"], index, state["origin"])
    log_probs = jax.nn.log_softmax(logits[:, :, 0])
    log_probs = adjust(log_probs, options, context["ids"], state["running_sequences"], index)
    if options.do_sample:
        log_probs = warp(log_probs, options)
    batch, _, vocab = log_probs.shape
    total = (log_probs + state["running_beam_scores"][..., None]).reshape(batch, beams * vocab)

    # The candidates, best first.
    count = max(2, 1 + len(options.ends)) * beams
    key = state["key"]
    if options.do_sample:
        # The top k of log-probabilities plus Gumbel noise are k draws without replacement.
        key, own = draws.split(key)
        _, drawn = jax.lax.top_k(total + draws.gumbel(own, total.shape), count)
        topk_log_probs, order = jax.lax.top_k(jnp.take_along_axis(total, drawn, axis=1), count)
        flat = jnp.take_along_axis(drawn, order, axis=1)
    else:
        topk_log_probs, flat = jax.lax.top_k(total, count)
    parents, ids = flat // vocab, (flat % vocab).astype(jnp.int32)
    topk_sequences = _pick(state["running_sequences"], parents)
    topk_sequences = jax.lax.dynamic_update_slice_in_dim(topk_sequences, ids[..., None], index, axis=2)
    hits_stopping_criteria = jnp.isin(ids, jnp.array(options.ends)) | (index + 1 >= options.max_new_tokens)

    # Running beams: the best candidates that do not end.
    running_beam_scores, running = jax.lax.top_k(topk_log_probs + hits_stopping_criteria * NEVER, beams)
    # A beam has its parent's tokens so far, and writes the next ones into its own row.
    origin = _pick(state["origin"], jnp.take_along_axis(parents, running, axis=1))
    origin = jnp.where(jnp.arange(options.capacity) <= index, origin, jnp.arange(beams)[:, None])

    # Finished sequences: candidates that end now and rank high enough compete with the earlier ones.
    length = (index + 1).astype(jnp.float32)
    finishes = hits_stopping_criteria & (jnp.arange(count) < beams)
    full = jnp.all(state["is_sent_finished"], axis=1, keepdims=True) & (options.early_stopping is True)
    final_scores = (
        topk_log_probs / length**options.length_penalty
        + full * NEVER
        + ~state["heuristic_unsatisfied"] * NEVER
        + ~finishes * NEVER
    )
    beam_scores, order = jax.lax.top_k(jnp.concatenate([state["beam_scores"], final_scores], axis=1), beams)
    sequences = _pick(jnp.concatenate([state["sequences"], topk_sequences], axis=1), order)
    is_sent_finished = _pick(jnp.concatenate([state["is_sent_finished"], finishes], axis=1), order)

    # Could the best running beam still beat the worst finished sequence, if it ended at this length (with "never" and a
    # penalty above 0: at the maximum length)?
    best_length = length
    if options.early_stopping == "never":
        best_length = jnp.where(options.length_penalty > 0, jnp.float32(options.max_new_tokens), length)
    best_running_score = running_beam_scores[:, :1] / best_length**options.length_penalty
    worst_finished_score = jnp.where(is_sent_finished, jnp.min(beam_scores, axis=1, keepdims=True), NEVER)
    improvable = jnp.any(best_running_score > worst_finished_score, axis=1, keepdims=True)
    heuristic_unsatisfied = state["heuristic_unsatisfied"] & improvable
    all_finished = jnp.all(is_sent_finished) & (options.early_stopping is True)
    return {
        "index": index + 1,
        "ids": jnp.take_along_axis(ids, running, axis=1),
        "running_sequences": _pick(topk_sequences, running),
        "running_beam_scores": running_beam_scores,
        "sequences": sequences,
        "beam_scores": beam_scores,
        "is_sent_finished": is_sent_finished,
        "heuristic_unsatisfied": heuristic_unsatisfied,
        "has_unfinished": jnp.any(heuristic_unsatisfied) & ~all_finished & ~jnp.all(hits_stopping_criteria),
        "finite": state["finite"] & jnp.all(jnp.isfinite(logits)),
        "origin": origin,
        "cache": cache,
        "key": key,
    }


def answers(state: State, options: Options) -> jax.Array:
    """The best finished sequences so far, int32 [B, num_return_sequences, T], best first."""
    return state["sequences"][:, : options.num_return_sequences]
