"""A system's loss and gradients as traces, from shapes only and without a mesh."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.systems.build import abstract, begin_memory, merge
from instructblip_jax.systems.protocol import Shapes, SystemConfig
from instructblip_jax.train.gradients import term_gradients


class Traceable(Protocol):
    """A system's structure and the shapes and types of its arrays: a `Model`, or the result of `describe`."""

    @property
    def config(self) -> SystemConfig:
        """The sizes of the system."""

    @property
    def graph(self) -> Any:
        """The static structure for `systems.build.merge`."""

    @property
    def train(self) -> Mapping[str, Any]:
        """Trained parameters by path."""

    @property
    def frozen(self) -> Mapping[str, Any]:
        """Frozen parameters by path."""

    @property
    def memory(self) -> Mapping[str, Any]:
        """The untrained state (memory), by name."""


class Outline(NamedTuple):
    """A `Traceable` without arrays."""

    config: SystemConfig
    graph: Any
    train: Shapes
    frozen: Shapes
    memory: Shapes


def describe(
    config: SystemConfig,
    *,
    trainable: str | None = None,
    dtype: str = "bfloat16",
    remat: str = "none",
    int8: Int8 = False,
) -> Outline:
    """The system of a configuration; the arguments are those of `systems.build.abstract`, which raises ValueError."""
    graph, train, frozen = abstract(
        config, mesh=single_device_mesh(), dtype=dtype, trainable=trainable, remat=remat, int8=int8
    )
    memory = jax.eval_shape(functools.partial(begin_memory, config), train)
    return Outline(config, graph, train, frozen, memory)


def gradients(system: Traceable, batch: Shapes) -> Any:
    """The jaxpr of the loss and its gradients over a whole batch, dropout included, as the train step takes them."""

    def run(train: Any, frozen: Any, memory: Any, batch: Any, key: Any) -> Any:
        return term_gradients(functools.partial(merge, system.graph), train, frozen, batch, key, 1, memory=memory)

    return jax.make_jaxpr(run)(*_arguments(system, batch)).jaxpr


def kept_bytes(system: Traceable, batch: Shapes) -> float:
    """Bytes that the forward pass over a whole batch keeps for the backward pass, in addition to parameters and
    batch."""

    def residuals(*arguments: Any) -> list[jax.Array]:
        train, *others = arguments
        _, pullback = jax.vjp(lambda train: _loss(system.graph, train, *others), train)
        given = {id(x) for x in jax.tree.leaves(arguments)}
        return [x for x in jax.tree.leaves(pullback) if id(x) not in given]

    return sum(nbytes(x) for x in jax.eval_shape(residuals, *_arguments(system, batch)))


def answers(system: Traceable) -> bool:
    """True if the system generates text, so that generation can be planned."""
    return has(system, "prefill")


def has(system: Traceable, method: str) -> bool:
    """True if the system's module has a method of the protocols in `systems.protocol`."""
    found: list[bool] = []
    train, frozen, *_ = _arguments(system, {})
    # The module exists only while a function is traced.
    jax.eval_shape(lambda *arrays: found.append(hasattr(merge(system.graph, *arrays), method)), train, frozen)
    return found[0]


def nbytes(x: Any) -> float:
    """Bytes of an array with this shape and type; a random key counts as 0."""
    return 0.0 if jnp.issubdtype(x.dtype, jax.dtypes.extended) else float(math.prod(x.shape) * x.dtype.itemsize)


def _arguments(system: Traceable, batch: Shapes) -> tuple:
    """Parameters, memory, batch and random key as shapes without shardings."""
    groups = (system.train, system.frozen, system.memory, batch)
    shapes = ({name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in group.items()} for group in groups)
    return (*shapes, jax.eval_shape(lambda: jax.random.key(0)))


def _loss(graph: Any, train: Any, frozen: Any, memory: Any, batch: Any, key: Any) -> jax.Array:
    terms, _ = merge(graph, train, frozen).loss(batch, memory=memory, step=0, key=key)
    return sum((term.weight * term.sums.sum() for term in terms.values()), jnp.zeros(()))
