"""Beam search as Hugging Face does it, length penalty and all three forms of early stopping included.

Scores are log-probabilities after penalties and bans, summed. Each step looks at (1 + number of end tokens) * beams
candidates: those that end are kept as answers if they are among the first ``num_beams``, the best others go on.
"""

from typing import Any

import jax
import jax.numpy as jnp

from instructblip_jax.decoding.logits import adjust, warp
from instructblip_jax.decoding.options import Options
from instructblip_jax.systems.protocol import Answers, Context

State = dict[str, Any]
NEVER = -1e9
"""Added to a score that must not win. Finite, as in the reference: what is left of the order under it is the same."""


def begin(system: Answers, context: Context, options: Options, key: jax.Array) -> State:
    """One live beam and its copies, no answer. Live beams: "ids", "out", "scores"; answers: "best", "best_scores";
    "finite": whether all logits were numbers."""
    beams, batch = options.num_beams, context["first"].shape[0]
    return {
        "index": jnp.int32(0),
        "ids": jnp.broadcast_to(context["first"][:, None], (batch, beams)).astype(jnp.int32),
        "out": jnp.full((batch, beams, options.capacity), options.pad, jnp.int32),
        "scores": jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, NEVER), (batch, beams)),
        "best": jnp.full((batch, beams, options.capacity), options.pad, jnp.int32),
        "best_scores": jnp.full((batch, beams), NEVER),
        "ended": jnp.zeros((batch, beams), bool),
        "hopeful": jnp.ones((batch, 1), bool),
        "open": jnp.bool_(True),
        "finite": jnp.bool_(True),
        "cache": system.init_cache(context, beams, options.capacity),
        "key": key,
    }


def unfinished(state: State, options: Options) -> jax.Array:
    """Whether any example can still find a better answer."""
    return (state["index"] < options.max_new_tokens) & state["open"]


def _pick(rows: jax.Array, order: jax.Array) -> jax.Array:
    """rows [B, N, ...] in the order [B, M] -> [B, M, ...]."""
    return jnp.take_along_axis(rows, order.reshape(*order.shape, *[1] * (rows.ndim - 2)), axis=1)


def _reorder(cache: jax.Array, origin: jax.Array) -> jax.Array:
    """A cache array [L, B, N, ...] with its beams in the order [B, N]."""
    return jnp.take_along_axis(cache, origin.reshape(1, *origin.shape, *[1] * (cache.ndim - 3)), axis=2)


def step(system: Answers, context: Context, state: State, options: Options) -> State:
    """One more token of every beam."""
    index, beams = state["index"], options.num_beams
    logits, cache = system.decode(state["ids"][..., None], context, state["cache"], index)
    scores = adjust(jax.nn.log_softmax(logits[:, :, 0]), options, context["ids"], state["out"], index)
    if options.do_sample:
        scores = warp(scores, options)
    batch, _, vocab = scores.shape
    total = (scores + state["scores"][..., None]).reshape(batch, beams * vocab)

    # The candidates, best first.
    count = max(2, 1 + len(options.ends)) * beams
    key = state["key"]
    if options.do_sample:
        # The largest of log-probabilities with Gumbel noise are draws without replacement.
        key, own = jax.random.split(key)
        _, drawn = jax.lax.top_k(total + jax.random.gumbel(own, total.shape), count)
        top, order = jax.lax.top_k(jnp.take_along_axis(total, drawn, axis=1), count)
        flat = jnp.take_along_axis(drawn, order, axis=1)
    else:
        top, flat = jax.lax.top_k(total, count)
    parent, ids = flat // vocab, (flat % vocab).astype(jnp.int32)
    out = _pick(state["out"], parent)
    out = jax.lax.dynamic_update_slice_in_dim(out, ids[..., None], index, axis=2)
    stops = jnp.isin(ids, jnp.array(options.ends)) | (index + 1 >= options.max_new_tokens)

    # Live beams: the best candidates that go on.
    running = top + stops * NEVER
    live_scores, live = jax.lax.top_k(running, beams)
    origin = jnp.take_along_axis(parent, live, axis=1)

    # Answers: those that end now and are good enough, among the ones found before.
    length = (index + 1).astype(jnp.float32)
    ending = stops & (jnp.arange(count) < beams)
    full = jnp.all(state["ended"], axis=1, keepdims=True) & (options.early_stopping is True)
    final = top / length**options.length_penalty + full * NEVER + ~state["hopeful"] * NEVER + ~ending * NEVER
    best_scores, order = jax.lax.top_k(jnp.concatenate([state["best_scores"], final], axis=1), beams)
    best = _pick(jnp.concatenate([state["best"], out], axis=1), order)
    ended = _pick(jnp.concatenate([state["ended"], ending], axis=1), order)

    # Can a live beam still beat the worst answer, were it to end at this length (or, for "never", at the longest)?
    longest = jnp.float32(options.max_new_tokens)
    hoped = jnp.where(options.length_penalty > 0, longest, length) if options.early_stopping == "never" else length
    worst = jnp.where(ended, jnp.min(best_scores, axis=1, keepdims=True), NEVER)
    possible = live_scores[:, :1] / hoped**options.length_penalty
    hopeful = state["hopeful"] & jnp.any(possible > worst, axis=1, keepdims=True)
    all_ended = jnp.all(ended) & (options.early_stopping is True)
    return {
        "index": index + 1,
        "ids": jnp.take_along_axis(ids, live, axis=1),
        "out": _pick(out, live),
        "scores": live_scores,
        "best": best,
        "best_scores": best_scores,
        "ended": ended,
        "hopeful": hopeful,
        "open": jnp.any(hopeful) & ~all_ended & ~jnp.all(stops),
        "finite": state["finite"] & jnp.all(jnp.isfinite(logits)),
        # The beams' own tokens move with them; what they share of the prompt stays where it is.
        "cache": jax.tree.map(lambda x: _reorder(x, origin), cache),
        "key": key,
    }


def answers(state: State, options: Options) -> jax.Array:
    """ids int32 [B, num_return_sequences, T], best first."""
    return state["best"][:, : options.num_return_sequences]
