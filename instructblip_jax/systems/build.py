"""A system as flat dicts, path -> array, the form that is trained, saved, restored and passed to jitted functions.

`nnx` modules exist only while a function is traced: `abstract` describes one without memory, `merge` assembles one.
"""

import re
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.stack import check_remat, place_of, unstack
from instructblip_jax.sharding import GATHERED_ONCE, SHARDED, Layout, in_use, partition_spec
from instructblip_jax.systems.protocol import Remembers, SystemConfig
from instructblip_jax.systems.trainable import check_int8, prefixes, split, touches, trains

Arrays = dict[str, jax.Array]
"""Parameters by path, parts joined by "/": "qformer/layers/query_ffn/up/kernel"."""
Abstract = dict[str, jax.ShapeDtypeStruct]


def flatten(state: nnx.State) -> dict[str, Any]:
    """An NNX state -> path -> variable."""
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def merge(graph: nnx.GraphDef, *arrays: Mapping[str, jax.Array]) -> Any:
    """The module of ``graph`` with these parameters; trained ones are gathered for use (`sharding.in_use`)."""
    paths = dict(_in_layers({path: leaf for part in arrays for path, leaf in part.items()}))
    keyed = {tuple(int(p) if p.isdigit() else p for p in path.split("/")): leaf for path, leaf in paths.items()}
    system = nnx.merge(graph, traverse_util.unflatten_dict(keyed))
    for _, node in nnx.iter_graph(system):
        if isinstance(node, nnx.Variable) and "in_use" in node.get_metadata():
            node.set_value(in_use(node[...], *node.get_metadata()["in_use"]))
    return system


def _in_layers(arrays: Mapping[str, jax.Array]) -> Iterator[tuple[str, jax.Array]]:
    """(path, array) of all parameters; stacks that belong to separate layers, such as adapters, are split."""
    numbered = (re.match(r"(.*)/(\d+)/", path) for path in arrays)
    depths = Counter(match[1] for match in {match[0]: match for match in numbered if match}.values())
    for path, x in arrays.items():
        stack = next((stack for stack in depths if path.startswith(f"{stack}/")), None)
        if stack is None or place_of(path)[1] is not None:
            yield path, x
            continue
        # As in `stack.run`, a split rather than slices, because of its gradient.
        for n, row in enumerate(jax.lax.split(x, [1] * depths[stack])):
            yield f"{stack}/{n}{path.removeprefix(stack)}", row[0]


def _in_one(layers: Abstract) -> Abstract:
    """The inverse for shapes: one array for all layers."""
    depths, found = Counter(place_of(path)[0] for path in layers), {}
    for path, x in layers.items():
        stacked, layer = place_of(path)
        if layer is not None:
            assert isinstance(x.sharding, NamedSharding)
            sharding = NamedSharding(x.sharding.mesh, PartitionSpec(None, *x.sharding.spec))
            x = jax.ShapeDtypeStruct((depths[stacked], *x.shape), x.dtype, sharding=sharding)
        found[stacked] = x
    return found


def in_stacks(arrays: Mapping[str, jax.Array]) -> Iterator[tuple[str, jax.Array]]:
    """(path, array) of all parameters, with separate layers stacked, one path at a time."""
    layers: dict[str, list[jax.Array]] = {}
    for path, x in arrays.items():
        stacked, layer = place_of(path)
        if layer is None:
            yield path, x
        else:
            layers.setdefault(stacked, []).append(x)
    for path, each in layers.items():
        yield path, jnp.stack(each)


def abstract(
    config: SystemConfig,
    *,
    mesh: Mesh,
    dtype: str,
    trainable: str | None = None,
    layout: Layout = SHARDED,
    remat: str = "none",
    int8: Int8 = False,
    scan_layers: bool = True,
) -> tuple[nnx.GraphDef, Abstract, Abstract]:
    """graph, trained and frozen parameters as shapes with types and shardings; no memory is allocated.

    Trained parameters are float32 (masters); frozen ones are stored in the compute type ``dtype``, or as their "stored"
    metadata says (int8 kernels and their scales). ``trainable``: a name of the system's trainable sets; None is its
    default. ``scan_layers``: False separates the layers of stacks in which at most adapters are trained
    (`stack.unstack`): the arrays of layer 3 are then "llm/layers/3/..."; trainable parameters are always one array for
    all layers. Raises ValueError for an unknown set, part, layout or ``remat``, and for int8 if the set trains its
    matrices.
    """
    check_remat(remat)
    if int8 not in typing.get_args(Int8):
        raise ValueError(f"int8 {int8!r} is unknown; expected one of {', '.join(map(str, typing.get_args(Int8)))}")
    check_int8(int8, trainable, config.trainable_sets, config.parts)
    layout.check(config.parts)
    compute, trained = jnp.dtype(dtype), prefixes(trainable, config.trainable_sets)

    def make() -> Any:
        rngs = nnx.Rngs(0)
        made: Any = config.build(dtype=compute, rngs=rngs, layout=layout, remat=remat, int8=int8, trained=trained)
        if not scan_layers:
            unstack(made, keep=lambda path: touches(path, trained))
        for path, variable in flatten(nnx.state(made)).items():
            if trains(path, trained) and (used := use(path, variable)) != (jnp.float32, None):
                variable.set_metadata(in_use=used)
        return made

    def use(path: str, variable: nnx.Variable) -> tuple[DTypeLike, PartitionSpec | None]:
        metadata, named = variable.get_metadata(), layout.of_path(path, config.parts)
        home = partition_spec(metadata["axes"], variable.shape, mesh, named)
        gathers = named == GATHERED_ONCE and any(home)
        return jnp.dtype(metadata.get("compute", jnp.float32)), home if gathers else None

    graph, *states = split(nnx.eval_shape(make), trained)

    def describe(path: str, variable: nnx.Variable, dtype: Any) -> jax.ShapeDtypeStruct:
        metadata = variable.get_metadata()
        spec = partition_spec(metadata["axes"], variable.shape, mesh, layout.of_path(path, config.parts))
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(variable.shape, metadata.get("stored", dtype), sharding=sharding)

    train, frozen = (
        {path: describe(path, variable, kind) for path, variable in flatten(state).items()}
        for state, kind in zip(states, (jnp.float32, compute), strict=True)
    )
    return graph, _in_one(train), frozen


def begin_memory(config: SystemConfig, train: Arrays) -> Arrays:
    """The memory before the first step; empty for most systems."""
    return config.begin_memory(train) if isinstance(config, Remembers) else {}


def follow(config: SystemConfig, memory: Arrays, train: Arrays) -> Arrays:
    """The memory at the beginning of a step; see `protocol.Remembers.follow`."""
    return config.follow(memory, train) if isinstance(config, Remembers) else memory
