"""Greedy decoding with static shapes: one prefill, one loop that stops when every row has ended."""

import jax
import jax.numpy as jnp

from instructblip_jax.systems.protocol import Batch, System


def greedy(system: System, image: jax.Array, batch: Batch, *, length: int, end: int, pad: int) -> jax.Array:
    """Image tokens [B, P, D] and instructions -> ids int32 [B, length], ``pad`` after each row's ``end`` token."""
    first, cache = system.prefill(image, batch, length)
    state = (jnp.int32(0), first, cache, jnp.zeros(first.shape, bool), jnp.full((*first.shape, length), pad, jnp.int32))

    def unfinished(state: tuple) -> jax.Array:
        index, _, _, done, _ = state
        return (index < length) & ~jnp.all(done)

    def step(state: tuple) -> tuple:
        index, ids, cache, done, out = state
        logits, cache = system.step(ids, cache, index)
        ids = jnp.where(done, pad, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        out = jax.lax.dynamic_update_slice_in_dim(out, ids[:, None], index, axis=1)
        return index + 1, ids, cache, done | (ids == end), out

    return jax.lax.while_loop(unfinished, step, state)[-1]
