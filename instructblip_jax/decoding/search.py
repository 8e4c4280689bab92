"""Prefill and decoding as three programs, compiled once per shape and reused: read, begin, decode.

The two kinds of search (`sample`, `beam`) are modules with the same four functions.
"""

import dataclasses
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from instructblip_jax.decoding import beam, sample
from instructblip_jax.decoding.options import NUMBERS, Options
from instructblip_jax.objectives.lm import token_log_likelihood
from instructblip_jax.systems.protocol import Answers, Context

# Numbers are inputs of a program; the other fields are compiled into it.
jax.tree_util.register_dataclass(
    Options,
    data_fields=list(NUMBERS),
    meta_fields=[field.name for field in dataclasses.fields(Options) if field.name not in NUMBERS],
)


def kind(options: Options) -> ModuleType:
    """The module that implements the search."""
    return beam if options.num_beams > 1 else sample


def run(system: Answers, context: Context, state: dict, options: Options, until: jax.Array) -> dict:
    """Run steps from ``state`` until every answer is complete, or there are ``until`` tokens (the next few of a
    stream)."""
    search = kind(options)

    def going(state: dict) -> jax.Array:
        return search.unfinished(state, options) & (state["index"] < until)

    return jax.lax.while_loop(going, lambda state: search.step(system, context, state, options), state)


def finished(state: dict, options: Options) -> jax.Array:
    """Bool scalar: True if the search is complete."""
    return ~kind(options).unfinished(state, options)


def widths(ids: jax.Array | np.ndarray, options: Options) -> jax.Array:
    """ids [..., T] -> int [...]: the length of each answer including its end token, or the maximum number of tokens."""
    ends = jnp.isin(ids, jnp.array(options.ends))
    return jnp.where(jnp.any(ends, axis=-1), jnp.argmax(ends, axis=-1) + 1, options.max_new_tokens)


def log_likelihood(system: Answers, context: Context, ids: jax.Array, counted: jax.Array) -> jax.Array:
    """Continuations int [B, N, T] -> the summed log-probability of their ``counted`` tokens, float32 [B, N]."""
    first = jnp.broadcast_to(context["first"][:, None, None], (*ids.shape[:2], 1))
    logits, _ = system.decode(jnp.concatenate([first, ids[:, :, :-1]], axis=2), context)
    return jnp.sum(token_log_likelihood(logits, ids) * counted, axis=2)
