"""Prefill and decoding as three programs, compiled once a shape and reused: read, begin, decode.

The two kinds of search (`sample`, `beam`) are files with the same four functions.
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

# The numbers are what a program is given; the rest is what it is compiled for.
jax.tree_util.register_dataclass(
    Options,
    data_fields=list(NUMBERS),
    meta_fields=[field.name for field in dataclasses.fields(Options) if field.name not in NUMBERS],
)


def kind(options: Options) -> ModuleType:
    """The file that does the search."""
    return beam if options.num_beams > 1 else sample


def run(system: Answers, context: Context, state: dict, options: Options, until: jax.Array) -> dict:
    """Steps from ``state`` until every answer is found, or ``until`` tokens are there (a stream's next few)."""
    search = kind(options)

    def going(state: dict) -> jax.Array:
        return search.unfinished(state, options) & (state["index"] < until)

    return jax.lax.while_loop(going, lambda state: search.step(system, context, state, options), state)


def finished(state: dict, options: Options) -> jax.Array:
    """True if nothing is left to do: a bool scalar."""
    return ~kind(options).unfinished(state, options)


def widths(ids: jax.Array | np.ndarray, options: Options) -> jax.Array:
    """ids [..., T] -> int [...]: each answer's tokens up to and with its end token, or all that were asked for."""
    ends = jnp.isin(ids, jnp.array(options.ends))
    return jnp.where(jnp.any(ends, axis=-1), jnp.argmax(ends, axis=-1) + 1, options.max_new_tokens)


def log_likelihood(system: Answers, context: Context, ids: jax.Array, counted: jax.Array) -> jax.Array:
    """Continuations int [B, N, T] -> the summed log-probability of their ``counted`` tokens, float32 [B, N]."""
    first = jnp.broadcast_to(context["first"][:, None, None], (*ids.shape[:2], 1))
    logits, _ = system.decode(jnp.concatenate([first, ids[:, :, :-1]], axis=2), context)
    return jnp.sum(token_log_likelihood(logits, ids) * counted, axis=2)
