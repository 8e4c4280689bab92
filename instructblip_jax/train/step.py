"""The train step: differentiates and updates the trained parameters only; frozen ones are constants of it."""

from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax

from instructblip_jax.sharding import constrain
from instructblip_jax.systems.protocol import Batch, System
from instructblip_jax.train import guard

Arrays = dict[str, jax.Array]
Step = Callable[["TrainState", Arrays, Batch], tuple["TrainState", Arrays]]
"""(state, frozen, batch) -> the state after it, and what `make_step` tells of it."""


class TrainState(TypedDict):
    """All that changes: the step (int32 scalar), the trained float32 parameters by path, the optimizer's state, the
    loss-spike guard's memory, and how many samples of each set were drawn (int32 [sets])."""

    step: jax.Array
    train: Arrays
    opt: Any
    guard: guard.Guard
    drawn: jax.Array


def init_state(train: Arrays, tx: optax.GradientTransformation, sets: int = 1) -> TrainState:
    """Step 0 over a mixture of so many ``sets``, which a batch's "set" [B] counts.

    Called outside jit, for moments then take the shardings of their parameters.
    """
    return {
        "step": jnp.zeros((), jnp.int32),
        "train": train,
        "opt": tx.init(train),
        "guard": guard.init(),
        "drawn": jnp.zeros((sets,), jnp.int32),
    }


def _micro_batches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; each part takes rows from every device, so none has to move."""
    return {name: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def _of_sets(rows: jax.Array, sets: jax.Array, count: int) -> jax.Array:
    """A number a row [B], and the set of each row [B] -> the sums of each of ``count`` sets, [sets]."""
    # Masked sums rather than a scatter: added in the same order whatever the mesh, and one small all-reduce.
    own = sets == jnp.arange(count, dtype=sets.dtype)[:, None]
    return constrain(jnp.sum(jnp.where(own, rows, 0), axis=1), None)


def token_gradients(
    merge: Callable[[Arrays, Arrays], System],
    train: Arrays,
    frozen: Arrays,
    batch: Batch,
    key: jax.Array,
    count: int,
    sets: int = 0,
) -> tuple[jax.Array, Arrays, Arrays]:
    """Mean loss over the batch's real tokens, sums over it, and the gradients of that mean.

    The sums are "tokens" and, where the batch names the ``sets`` of its rows, "set_loss", "set_tokens" and "set_rows",
    [sets] each. All are added over ``count`` micro-batches, and the gradients divided once by the token count of the
    whole (global) batch, so that neither accumulation, nor padding, nor the number of devices changes the weight of a
    token.
    """

    def summed(train: Arrays, batch: Batch, key: jax.Array) -> tuple[jax.Array, Arrays]:
        losses, tokens = merge(train, frozen).loss(batch, key=key)
        sums = {"tokens": tokens.sum()}
        if "set" in batch:
            rows = {"set_loss": losses, "set_tokens": tokens, "set_rows": jnp.ones_like(batch["set"])}
            sums |= {name: _of_sets(x, batch["set"], sets) for name, x in rows.items()}
        return losses.sum(), sums

    differentiate = jax.value_and_grad(summed, has_aux=True)
    if count == 1:
        (total, sums), grads = differentiate(train, batch, key)
    else:

        def add(carry: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, differentiate(train, *part)), None

        parts = (_micro_batches(batch, count), jax.random.split(key, count))
        shapes = jax.eval_shape(differentiate, train, *jax.tree.map(lambda x: x[0], parts))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        ((total, sums), grads), _ = jax.lax.scan(add, start, parts)
    scale = 1.0 / jnp.maximum(sums["tokens"], 1.0)
    return total * scale, sums, jax.tree.map(lambda g: g * scale, grads)


def make_step(
    merge: Callable[[Arrays, Arrays], System],
    tx: optax.GradientTransformation,
    *,
    seed: int,
    accumulation: int = 1,
    spike_factor: float = 0.0,
    rate: optax.Schedule | None = None,
    compiler_options: dict[str, str] | None = None,
) -> Step:
    """The jitted step ``(state, frozen, batch) -> (state, metrics)``; it consumes (donates) the state it is given.

    ``merge(train, frozen)`` makes the system. Metrics are scalars: loss (mean over real tokens), tokens, grad_norm
    (before clipping), learning_rate (where ``rate``, the optimizer's schedule, is given), skipped and skipped_in_row;
    and, where the batch names its rows' sets, set_loss (sum), set_tokens and drawn (so far), [sets] each. Dropout
    depends on ``seed`` and the step alone. A step whose loss or gradient is not finite changes no parameter, so that
    whoever reads the metrics later still finds the last good ones; nor does one that ``spike_factor`` refuses.
    """

    def step(state: TrainState, frozen: Arrays, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        sets = state["drawn"].size
        loss, sums, grads = token_gradients(merge, state["train"], frozen, batch, key, accumulation, sets)
        grad_norm = optax.global_norm(grads)
        take, watch = guard.judge(state["guard"], loss, grad_norm, spike_factor)
        updates, opt = tx.update(grads, state["opt"], state["train"])
        train = optax.apply_updates(state["train"], updates)
        train, opt = jax.tree.map(
            lambda new, old: jnp.where(take, new, old), (train, opt), (state["train"], state["opt"])
        )
        drawn = state["drawn"] + sums.pop("set_rows", 0)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "skipped": watch["skipped"],
            "skipped_in_row": watch["in_row"],
            **sums,
        }
        if rate is not None:  # a skipped step is none for the optimizer
            metrics["learning_rate"] = jnp.asarray(rate(state["step"] - state["guard"]["skipped"]), jnp.float32)
        if "set" in batch:
            metrics["drawn"] = drawn
        after: TrainState = {"step": state["step"] + 1, "train": train, "opt": opt, "guard": watch, "drawn": drawn}
        return after, metrics

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options)
