"""The likeliest token at every step, or one drawn at random."""

from typing import Any

import jax
import jax.numpy as jnp

from instructblip_jax.decoding.logits import adjust, warp
from instructblip_jax.decoding.options import Options
from instructblip_jax.systems.protocol import Answers, Context

State = dict[str, Any]


def begin(system: Answers, context: Context, options: Options, key: jax.Array) -> State:
    """No token yet: ids to feed [B, N], answers so far [B, N, T], which rows have ended, whether all logits were
    numbers, the cache, the random key."""
    rows, batch = options.rows, context["first"].shape[0]
    return {
        "index": jnp.int32(0),
        "ids": jnp.broadcast_to(context["first"][:, None], (batch, rows)).astype(jnp.int32),
        "out": jnp.full((batch, rows, options.capacity), options.pad, jnp.int32),
        "done": jnp.zeros((batch, rows), bool),
        "finite": jnp.bool_(True),
        "cache": system.init_cache(context, rows, options.capacity),
        "key": key,
    }


def unfinished(state: State, options: Options) -> jax.Array:
    """Whether a row goes on."""
    return (state["index"] < options.max_new_tokens) & ~jnp.all(state["done"])


def step(system: Answers, context: Context, state: State, options: Options) -> State:
    """One more token of every row; rows that have ended are padded."""
    index = state["index"]
    logits, cache = system.decode(state["ids"][..., None], context, state["cache"], index)
    scores = adjust(logits[:, :, 0], options, context["ids"], state["out"], index)
    key = state["key"]
    if options.do_sample:
        key, own = jax.random.split(key)
        chosen = jax.random.categorical(own, warp(scores, options))
    else:
        chosen = jnp.argmax(scores, axis=-1)
    ids = jnp.where(state["done"], options.pad, chosen).astype(jnp.int32)
    return {
        "index": index + 1,
        "ids": ids,
        "out": jax.lax.dynamic_update_slice_in_dim(state["out"], ids[..., None], index, axis=2),
        "done": state["done"] | jnp.isin(ids, jnp.array(options.ends)),
        "finite": state["finite"] & jnp.all(jnp.isfinite(logits)),
        "cache": cache,
        "key": key,
    }


def answers(state: State, options: Options) -> jax.Array:
    """ids int32 [B, N, T]."""
    return state["out"]
