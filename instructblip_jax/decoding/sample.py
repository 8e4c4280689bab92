"""Greedy decoding (the likeliest token at every step) and sampling."""

from typing import Any

import jax
import jax.numpy as jnp

from instructblip_jax.decoding import draws
from instructblip_jax.decoding.logits import adjust, warp
from instructblip_jax.decoding.options import Options
from instructblip_jax.systems.protocol import Answers, Context

State = dict[str, Any]


def begin(system: Answers, context: Context, options: Options, key: jax.Array) -> State:
    """State before the first token.

    "ids" int32 [B, N], the tokens to feed next; "sequences" int32 [B, N, T], the answers so far; "is_sent_finished"
    bool [B, N]; "finite": bool, all logits so far were finite; "cache", the KV cache; "key", the random key, or one for
    each row.
    """
    rows, batch = options.rows, context["first"].shape[0]
    return {
        "index": jnp.int32(0),
        "ids": jnp.broadcast_to(context["first"][:, None], (batch, rows)).astype(jnp.int32),
        "sequences": jnp.full((batch, rows, options.capacity), options.pad, jnp.int32),
        "is_sent_finished": jnp.zeros((batch, rows), bool),
        "finite": jnp.bool_(True),
        "cache": system.init_cache(context, rows, options.capacity),
        "key": key,
    }


def unfinished(state: State, options: Options) -> jax.Array:
    """Bool scalar: True while any row is unfinished."""
    return (state["index"] < options.max_new_tokens) & ~jnp.all(state["is_sent_finished"])


def step(system: Answers, context: Context, state: State, options: Options) -> State:
    """Decode one more token of every row; finished rows are padded."""
    index = state["index"]
    logits, cache = system.decode(state["ids"][..., None], context, state["cache"], index)
    scores = adjust(logits[:, :, 0], options, context["ids"], state["sequences"], index)
    key = state["key"]
    if options.do_sample:
        key, own = draws.split(key)
        chosen = draws.categorical(own, warp(scores, options))
    else:
        chosen = jnp.argmax(scores, axis=-1)
    ids = jnp.where(state["is_sent_finished"], options.pad, chosen).astype(jnp.int32)
    return {
        "index": index + 1,
        "ids": ids,
        "sequences": jax.lax.dynamic_update_slice_in_dim(state["sequences"], ids[..., None], index, axis=2),
        "is_sent_finished": state["is_sent_finished"] | jnp.isin(ids, jnp.array(options.ends)),
        "finite": state["finite"] & jnp.all(jnp.isfinite(logits)),
        "cache": cache,
        "key": key,
    }


def answers(state: State, options: Options) -> jax.Array:
    """The answers so far, int32 [B, N, T]."""
    return state["sequences"]
