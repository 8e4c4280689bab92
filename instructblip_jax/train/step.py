"""The train step: it differentiates and updates only the trained parameters; frozen ones are constants."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax

from instructblip_jax.systems.protocol import Batch, System
from instructblip_jax.train import guard
from instructblip_jax.train.gradients import Arrays, grouped_gradients, term_gradients

Step = Callable[["TrainState", Arrays, Batch], tuple["TrainState", Arrays]]
"""(state, frozen, batch) -> (state, metrics); see `make_step`."""


class TrainState(TypedDict):
    """Everything that changes.

    "step": int32 scalar; "train": the trained float32 parameters by path; "memory": the system's untrained state, by
    name (empty for most systems); "opt": the optimizer's state; "guard": the loss-spike guard's state; "drawn": int32
    [sets], the number of samples drawn from each set.
    """

    step: jax.Array
    train: Arrays
    memory: Arrays
    opt: Any
    guard: guard.Guard
    drawn: jax.Array


def init_state(
    train: Arrays, tx: optax.GradientTransformation, sets: int = 1, memory: Arrays | None = None
) -> TrainState:
    """The state before the first step, for a mixture of ``sets`` sets, which a batch's "set" [B] refers to.

    Call it outside jit, so that optax's moments inherit their parameters' shardings.
    """
    return {
        "step": jnp.zeros((), jnp.int32),
        "train": train,
        "memory": dict(memory or {}),
        "opt": tx.init(train),
        "guard": guard.init(),
        "drawn": jnp.zeros((sets,), jnp.int32),
    }


def make_step(
    merge: Callable[[Arrays, Arrays], System],
    tx: optax.GradientTransformation,
    *,
    seed: int,
    accumulation: int = 1,
    spike_factor: float = 0.0,
    rate: optax.Schedule | None = None,
    follow: Callable[[Arrays, Arrays], Arrays] = lambda memory, train: memory,
    groups: Mapping[str, float] | None = None,
    compiler_options: dict[str, str] | None = None,
) -> Step:
    """The jitted step ``(state, frozen, batch) -> (state, metrics)``; it consumes (donates) the state it is given.

    ``merge(train, frozen)`` makes the system. ``follow(memory, train)``: the memory at the beginning of a step
    (`systems.build.follow`). ``groups``, name -> weight: a step has a batch of each (`grouped_gradients`). Metrics:
    "loss" (see `term_gradients`), "tokens" (the count of its first term), "terms", "counts" and "weights" {name:
    scalar}, with groups "shares" too, "grad_norm" (before clipping), "learning_rate" (if ``rate``, the optimizer's
    schedule, is given), "skipped" and "skipped_in_row"; and, where the batch names its rows' sets, "set_totals" and
    "set_counts" {name: [sets]} and "drawn" [sets], samples so far. Dropout depends only on ``seed`` and the step. A
    step whose loss or gradient is not finite changes neither parameters nor memory, so that the last good ones remain;
    nor does one that ``spike_factor`` skips.
    """

    def step(state: TrainState, frozen: Arrays, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        sets = state["drawn"].size
        gradients = partial(grouped_gradients, groups=groups) if groups else term_gradients
        loss, sums, grads, memory = gradients(
            merge,
            state["train"],
            frozen,
            batch,
            key,
            accumulation,
            sets,
            memory=follow(state["memory"], state["train"]),
            step=state["step"],
        )
        grad_norm = optax.global_norm(grads)
        take, watch = guard.judge(state["guard"], loss, grad_norm, spike_factor)
        updates, opt = tx.update(grads, state["opt"], state["train"])
        train = optax.apply_updates(state["train"], updates)
        train, opt, memory = jax.tree.map(
            lambda new, old: jnp.where(take, new, old),
            (train, opt, memory),
            (state["train"], state["opt"], state["memory"]),
        )
        drawn = state["drawn"] + sums.pop("set_rows", 0)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "skipped": watch["skipped"],
            "skipped_in_row": watch["in_row"],
            **sums,
        }
        if rate is not None:  # the optimizer does not count skipped steps
            metrics["learning_rate"] = jnp.asarray(rate(state["step"] - state["guard"]["skipped"]), jnp.float32)
        if "set_totals" in sums:
            metrics["drawn"] = drawn
        after: TrainState = {
            "step": state["step"] + 1,
            "train": train,
            "memory": memory,
            "opt": opt,
            "guard": watch,
            "drawn": drawn,
        }
        return after, metrics

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options)
