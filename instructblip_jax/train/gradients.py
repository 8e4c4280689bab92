"""Gradients of a loss with several terms, exact over micro-batches, sets and any mesh."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import constrain
from instructblip_jax.systems.protocol import Batch, System
from instructblip_jax.train.groups import joined, parted

Arrays = dict[str, jax.Array]
Counts = dict[str, jax.Array]


def term_gradients(
    merge: Callable[[Arrays, Arrays], System],
    train: Arrays,
    frozen: Arrays,
    batch: Batch,
    key: jax.Array | None,
    count: int,
    sets: int = 0,
    *,
    memory: Arrays | None = None,
    step: jax.Array | int = 0,
) -> tuple[jax.Array, dict[str, Any], Arrays, Arrays]:
    """Loss, sums, gradients and memory of a batch that is computed in ``count`` micro-batches.

    The loss is the weighted sum of the terms' means over the whole (global) batch, and the gradients are those of that
    loss: neither accumulation, nor padding, nor the number of devices changes the weight of a row or token. The sums
    are "terms" {name: mean}, "counts" and "weights" {name: scalar}, "tokens" (the count of the first term) and, if the
    batch names the ``sets`` of its rows, "set_totals" and "set_counts" {name: [sets]}, and "set_rows" [sets].
    """
    parts: Any = (batch, key)
    if count > 1:
        parts = (_micro_batches(batch, count), None if key is None else jax.random.split(key, count))
    first = jax.tree.map(lambda x: x[0], parts) if count > 1 else parts

    def losses(train: Arrays, memory: Arrays, part: Batch, key: jax.Array | None) -> tuple[dict[str, Term], Arrays]:
        return merge(train, frozen).loss(part, memory=memory, step=step, key=key)

    def counted(memory: Arrays, part: Batch, key: jax.Array | None) -> tuple[Counts, Arrays]:
        terms, memory = losses(train, memory, part, key)
        return {name: term.counts.sum() for name, term in terms.items()}, memory

    before = dict(memory or {})
    described, _ = jax.eval_shape(losses, train, before, *first)
    weights = {name: term.weight for name, term in described.items()}
    lead = next(iter(weights))
    # Sums are differentiated in units of the first term's count, and divided by that count once, at the end. A single
    # term then needs no count beforehand. For several terms, counting first is cheap: XLA removes everything else from
    # that first scan.
    whole = _added(counted, before, parts)[0] if count > 1 and len(weights) > 1 else None

    def objective(train: Arrays, memory: Arrays, part: Batch, key: jax.Array | None) -> tuple[jax.Array, Any]:
        terms, memory = losses(train, memory, part, key)
        sums = _sums(terms, part, sets)
        scaled = [
            total * _ratio(weights, whole or sums["counts"], name, lead) for name, total in sums["totals"].items()
        ]
        return sum(scaled[1:], scaled[0]), (sums, memory)

    differentiate = jax.value_and_grad(objective, has_aux=True)

    def graded(memory: Arrays, part: Batch, key: jax.Array | None) -> tuple[Any, Arrays]:
        (total, (sums, memory)), grads = differentiate(train, memory, part, key)
        return (total, sums, grads), memory

    (total, sums, grads), after = _added(graded, before, parts) if count > 1 else graded(before, *parts)
    scale = 1.0 / jnp.maximum(sums["counts"][lead], 1.0)
    totals = sums.pop("totals")
    sums["terms"] = {name: totals[name] * (1.0 / jnp.maximum(n, 1.0)) for name, n in sums["counts"].items()}
    sums |= {"weights": weights, "tokens": sums["counts"][lead]}
    return total * scale, sums, jax.tree.map(lambda g: g * scale, grads), after


def grouped_gradients(
    merge: Callable[[Arrays, Arrays], System],
    train: Arrays,
    frozen: Arrays,
    batch: Batch,
    key: jax.Array | None,
    count: int,
    sets: int = 0,
    *,
    groups: Mapping[str, float],
    memory: Arrays | None = None,
    step: jax.Array | int = 0,
) -> tuple[jax.Array, dict[str, Any], Arrays, Arrays]:
    """`term_gradients` of a step with a batch for each of ``groups`` (`train.groups.joined`), by the groups' weights.

    The loss is the weighted sum of the groups' losses, each over its own batch only, and the gradients are those of
    that loss. The sums have the terms "GROUP/TERM", and "shares" {name: weight of its group}. The groups update the
    memory in order.
    """
    batches = parted(batch)
    loss, grads, after = jnp.zeros(()), jax.tree.map(jnp.zeros_like, train), dict(memory or {})
    sums: dict[str, Any] = {"tokens": jnp.zeros(()), "shares": {}}
    for number, (name, weight) in enumerate(groups.items()):
        own = None if key is None else jax.random.fold_in(key, number)
        part, found, part_grads, after = term_gradients(
            merge, train, frozen, batches[name], own, count, sets, memory=after, step=step
        )
        loss = loss + weight * part
        grads = jax.tree.map(lambda total, g, weight=weight: total + weight * g, grads, part_grads)
        sums["tokens"] += found.pop("tokens")
        if "set_rows" in found:
            sums["set_rows"] = sums.get("set_rows", 0) + found.pop("set_rows")
        for what, by_term in found.items():
            sums.setdefault(what, {}).update(joined({name: by_term}))
        sums["shares"] |= joined({name: dict.fromkeys(found["weights"], weight)})
    return loss, sums, grads, after


def _micro_batches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; each part has rows from every device, so that no row is moved."""
    return {name: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def _added(function: Callable[..., tuple[Any, Arrays]], memory: Arrays, parts: Any) -> tuple[Any, Arrays]:
    """``function(memory, *part)`` added up over the micro-batches, and the memory after the last one."""

    def add(carry: Any, part: tuple) -> tuple[Any, None]:
        total, memory = carry
        found, memory = function(memory, *part)
        return (jax.tree.map(jnp.add, total, found), memory), None

    shapes, _ = jax.eval_shape(function, memory, *jax.tree.map(lambda x: x[0], parts))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, (start, memory), parts)[0]


def _ratio(weights: Mapping[str, float], counts: Counts, name: str, lead: str) -> Any:
    """The factor of a term's sum, in units of the first term's count."""
    if name == lead:
        return weights[name]
    return weights[name] * jnp.maximum(counts[lead], 1.0) / jnp.maximum(counts[name], 1.0)


def _sums(terms: Mapping[str, Term], batch: Batch, sets: int) -> dict[str, Any]:
    """Everything that is summed over micro-batches: sum and count of each term, and those of each set's rows."""
    found: dict[str, Any] = {
        "totals": {name: term.sums.sum() for name, term in terms.items()},
        "counts": {name: term.counts.sum() for name, term in terms.items()},
    }
    if "set" in batch:
        of_sets = partial(_of_sets, sets=batch["set"], count=sets)
        found["set_totals"] = {name: of_sets(term.sums) for name, term in terms.items()}
        found["set_counts"] = {name: of_sets(term.counts) for name, term in terms.items()}
        found["set_rows"] = of_sets(jnp.ones_like(batch["set"]))
    return found


def _of_sets(rows: jax.Array, sets: jax.Array, count: int) -> jax.Array:
    """One number per row [B], and the set of each row [B] -> the sum for each of ``count`` sets, [sets]."""
    # Masked sums rather than a scatter: added in the same order on any mesh, and one small all-reduce.
    own = sets == jnp.arange(count, dtype=sets.dtype)[:, None]
    return constrain(jnp.sum(jnp.where(own, rows, 0), axis=1), None)
