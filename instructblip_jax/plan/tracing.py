"""A system's loss and gradients as traces: from shapes alone, for no mesh in particular."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.systems.build import Abstract, abstract, begin_memory, merge
from instructblip_jax.systems.protocol import Shapes, SystemConfig
from instructblip_jax.train.gradients import term_gradients


@dataclasses.dataclass(frozen=True)
class Traceable:
    """A system as shapes without shardings. ``graph`` is what `systems.build.merge` fills."""

    graph: Any
    train: Abstract
    frozen: Abstract
    memory: Abstract

    def merge(self, train: Any, frozen: Any) -> Any:
        """The module with these parameters in it."""
        return merge(self.graph, train, frozen)


def describe(
    config: SystemConfig,
    *,
    trainable: str | None = None,
    dtype: str = "bfloat16",
    remat: str = "none",
    int8: bool = False,
) -> Traceable:
    """The system of a configuration; the arguments are those of `systems.build.abstract`, which raises ValueError."""
    graph, train, frozen = abstract(
        config, mesh=single_device_mesh(), dtype=dtype, trainable=trainable, remat=remat, int8=int8
    )
    memory = jax.eval_shape(functools.partial(begin_memory, config), train)
    return Traceable(graph, *map(_unplaced, (train, frozen, memory)))


def _unplaced(arrays: Abstract) -> Abstract:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}


def gradients(system: Traceable, batch: Shapes) -> Any:
    """The jaxpr of the loss and its gradients over a whole batch, dropout included, as the train step takes them."""

    def run(train: Any, frozen: Any, memory: Any, batch: Any, key: Any) -> Any:
        return term_gradients(system.merge, train, frozen, batch, key, 1, memory=memory)

    return jax.make_jaxpr(run)(system.train, system.frozen, system.memory, batch, _key()).jaxpr


def loss(system: Traceable, batch: Shapes) -> Any:
    """The jaxpr of the forward pass alone."""
    arguments = (system.train, system.frozen, system.memory, batch, _key())
    return jax.make_jaxpr(functools.partial(_loss, system))(*arguments).jaxpr


def kept_bytes(system: Traceable, batch: Shapes) -> float:
    """Bytes that the forward pass over a whole batch keeps for the backward pass, parameters and batch aside."""

    def residuals(train: Any, frozen: Any, memory: Any, batch: Any, key: Any) -> list[jax.Array]:
        _, pullback = jax.vjp(lambda train: _loss(system, train, frozen, memory, batch, key), train)
        given = {id(x) for x in jax.tree.leaves((train, frozen, memory, batch, key))}
        return [x for x in jax.tree.leaves(pullback) if id(x) not in given]

    kept = jax.eval_shape(residuals, system.train, system.frozen, system.memory, batch, _key())
    return sum(nbytes(x) for x in kept)


def nbytes(x: Any) -> float:
    """Bytes of an array that is described by its shape and type; a random key counts as nothing."""
    return 0.0 if jnp.issubdtype(x.dtype, jax.dtypes.extended) else float(math.prod(x.shape) * x.dtype.itemsize)


def _key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def _loss(system: Traceable, train: Any, frozen: Any, memory: Any, batch: Any, key: Any) -> jax.Array:
    terms, _ = system.merge(train, frozen).loss(batch, memory=memory, step=0, key=key)
    return sum((term.weight * term.sums.sum() for term in terms.values()), jnp.zeros(()))
