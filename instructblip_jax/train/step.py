"""The train step: differentiates and updates the trained parameters only; frozen ones are constants of it."""

from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax

from instructblip_jax.systems.protocol import Batch, System

Arrays = dict[str, jax.Array]


class TrainState(TypedDict):
    """All that changes: the step (int32 scalar), the trained float32 parameters by path, the optimizer's state."""

    step: jax.Array
    train: Arrays
    opt: Any


def init_state(train: Arrays, tx: optax.GradientTransformation) -> TrainState:
    """Step 0. Called outside jit, for moments then take the shardings of their parameters."""
    return {"step": jnp.zeros((), jnp.int32), "train": train, "opt": tx.init(train)}


def _micro_batches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; each part takes rows from every device, so none has to move."""
    return {name: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def token_gradients(
    merge: Callable[[Arrays, Arrays], System], train: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, Arrays]:
    """Mean loss over the batch's real tokens, their number, and the gradients of that mean.

    Sums are added over ``count`` micro-batches and divided once by the token count of the whole (global) batch, so that
    neither accumulation, nor padding, nor the number of devices changes the weight of a token.
    """

    def summed(train: Arrays, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses, tokens = merge(train, frozen).loss(batch, key=key)
        return jnp.sum(losses), jnp.sum(tokens)

    differentiate = jax.value_and_grad(summed, has_aux=True)
    if count == 1:
        (total, tokens), grads = differentiate(train, batch, key)
    else:

        def add(carry: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            (total, tokens), grads = differentiate(train, *part)
            return jax.tree.map(jnp.add, carry, (total, tokens, grads)), None

        zero = jnp.zeros((), jnp.float32)
        start = (zero, zero, jax.tree.map(jnp.zeros_like, train))
        parts = (_micro_batches(batch, count), jax.random.split(key, count))
        (total, tokens, grads), _ = jax.lax.scan(add, start, parts)
    scale = 1.0 / jnp.maximum(tokens, 1.0)
    return total * scale, tokens, jax.tree.map(lambda g: g * scale, grads)


def make_step(
    merge: Callable[[Arrays, Arrays], System],
    tx: optax.GradientTransformation,
    *,
    seed: int,
    accumulation: int = 1,
    compiler_options: dict[str, str] | None = None,
) -> Callable[[TrainState, Arrays, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step ``(state, frozen, batch) -> (state, metrics)``; it consumes (donates) the state it is given.

    ``merge(train, frozen)`` makes the system. Metrics are float32 scalars: loss (mean over real tokens), tokens,
    grad_norm (before clipping). Dropout depends on ``seed`` and the step alone. A step whose loss or gradient is not
    finite changes no parameter, so that whoever reads the metrics later still finds the last good ones.
    """

    def step(state: TrainState, frozen: Arrays, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        loss, tokens, grads = token_gradients(merge, state["train"], frozen, batch, key, accumulation)
        grad_norm = optax.global_norm(grads)
        updates, opt = tx.update(grads, state["opt"], state["train"])
        train = optax.apply_updates(state["train"], updates)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        train, opt = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (train, opt), (state["train"], state["opt"])
        )
        metrics = {"loss": loss, "tokens": tokens, "grad_norm": grad_norm}
        return {"step": state["step"] + 1, "train": train, "opt": opt}, metrics

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options)
