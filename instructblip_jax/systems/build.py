"""A system as plain flat dicts, path -> array: what is trained, saved, restored and passed to jitted functions.

`nnx` modules exist only while a function is traced: `abstract` describes one without memory, `merge` puts one together.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jax.sharding import Mesh, NamedSharding

from instructblip_jax.models.layers.stack import REMAT
from instructblip_jax.sharding import SHARDED, Layout, partition_spec
from instructblip_jax.systems.instructblip import InstructBlipConfig, InstructBlipSystem
from instructblip_jax.systems.trainable import enters_tower, split

Arrays = dict[str, jax.Array]
"""Parameters by path, parts joined by "/": "qformer/layers/query_ffn/up/kernel"."""
Abstract = dict[str, jax.ShapeDtypeStruct]


def flatten(state: nnx.State) -> dict[str, Any]:
    """An NNX state -> path -> variable."""
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def merge(graph: nnx.GraphDef, *arrays: Mapping[str, jax.Array]) -> Any:
    """The module of ``graph`` with these parameters in it."""
    paths = {path: leaf for part in arrays for path, leaf in part.items()}
    keyed = {tuple(int(p) if p.isdigit() else p for p in path.split("/")): leaf for path, leaf in paths.items()}
    return nnx.merge(graph, traverse_util.unflatten_dict(keyed))


def abstract(
    config: InstructBlipConfig,
    *,
    mesh: Mesh,
    dtype: str,
    trainable: str,
    layout: Layout = SHARDED,
    remat: str = "none",
    int8: bool = False,
) -> tuple[nnx.GraphDef, Abstract, Abstract]:
    """graph, trained and frozen parameters as shapes with types and shardings; no memory is taken.

    Trained parameters are float32 (masters), frozen ones are stored in the compute type ``dtype``, or as their "stored"
    metadata says (int8 kernels and their scales).
    """
    if remat not in REMAT:
        raise ValueError(f"remat {remat!r} is unknown; there are {', '.join(REMAT)}")
    compute, tower = jnp.dtype(dtype), enters_tower(trainable)
    make = partial(InstructBlipSystem, config, dtype=compute, layout=layout, remat=remat, int8=int8, train_tower=tower)
    system = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    graph, *states = split(system, trainable)

    def describe(path: str, variable: nnx.Variable, dtype: Any) -> jax.ShapeDtypeStruct:
        metadata = variable.get_metadata()
        spec = partition_spec(metadata["axes"], variable.shape, mesh, layout.of(path))
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(variable.shape, metadata.get("stored", dtype), sharding=sharding)

    train, frozen = (
        {path: describe(path, variable, kind) for path, variable in flatten(state).items()}
        for state, kind in zip(states, (jnp.float32, compute), strict=True)
    )
    return graph, train, frozen
