"""Hugging Face tensors -> sharded arrays, one tensor in host memory at a time."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from instructblip_jax.convert.rule import Rule
from instructblip_jax.convert.shards import Shards
from instructblip_jax.convert.table import IGNORED


def check(rules: Mapping[str, Rule], abstract: Mapping[str, jax.ShapeDtypeStruct], shards: Shards) -> dict[str, Rule]:
    """Match the table against the files before anything is read.

    Returns the rules with the names these files use. Raises one ValueError that lists every missing, unexpected and
    mis-shaped tensor.
    """
    resolved, wrong, used = {}, [], set()
    for path, leaf in abstract.items():
        rule = rules[path]
        present = [name for name in (rule.theirs, *rule.others) if name in shards.shapes]
        if not rule.stacked and present:
            rule = Rule(rule.ours, present[0], rule.transform)
        resolved[path] = rule
        want = rule.tensor_shape(leaf.shape)
        for name in rule.names(leaf.shape):
            used.add(name)
            if name not in shards.shapes:
                wrong.append(f"missing     {name} {list(want)}")
            elif shards.shapes[name] != want:
                wrong.append(f"mis-shaped  {name} {list(shards.shapes[name])}, config.json asks for {list(want)}")
    wrong += [f"unexpected  {name}" for name in shards.shapes if name not in used and not IGNORED.fullmatch(name)]
    if wrong:
        lines = sorted(set(wrong))
        raise ValueError(
            f"{shards.directory}: {len(lines)} tensors do not fit its config.json:\n  " + "\n  ".join(lines)
        )
    return resolved


@partial(jax.jit, donate_argnums=0)
def _set_layer(stack: jax.Array, layer: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, index, 0)


def _place(value: np.ndarray, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index].astype(leaf.dtype))


def _read(rule: Rule, leaf: jax.ShapeDtypeStruct, shards: Shards) -> jax.Array:
    sharding = leaf.sharding
    assert isinstance(sharding, NamedSharding)
    if not rule.stacked:
        return _place(rule.transform.read(shards.read(rule.theirs)), leaf, sharding)
    # A stack is filled layer by layer on the device, so that the host never holds all layers of a kernel.
    layer_sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    stack = jax.jit(partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=sharding)()
    for index, name in enumerate(rule.names(leaf.shape)):
        layer = _place(rule.transform.read(shards.read(name)), leaf, layer_sharding)
        stack = _set_layer(stack, layer, index).block_until_ready()
    return stack


def load(
    rules: Mapping[str, Rule], abstract: Mapping[str, jax.ShapeDtypeStruct], shards: Shards
) -> dict[str, jax.Array]:
    """Every parameter in ``abstract`` (path -> shape, dtype, sharding), read into place.

    Raises ValueError when the files do not fit (see `check`) or break off inside a tensor.
    """
    return {path: _read(rule, abstract[path], shards) for path, rule in check(rules, abstract, shards).items()}
