"""Hugging Face tensors -> sharded arrays, one tensor in host memory at a time."""

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from instructblip_jax.convert.rule import Rule, for_paths
from instructblip_jax.convert.shards import Shards
from instructblip_jax.models.layers.int8 import quantize

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights, in safetensors' names."""
SCALE = "/kernel_scale"
NONE = re.compile(r"(?!)")
"""Matches no name."""


def check(
    rules: Mapping[str, Rule],
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    shards: Shards,
    ignored: re.Pattern[str] = NONE,
) -> dict[str, Rule]:
    """Compare the table with the headers of the files, before any tensor is read.

    Args:
      rules: path -> its rule, for every path in ``abstract``.
      abstract: path -> shape and type of every parameter.
      shards: the files.
      ignored: names of tensors that need no rule.

    Returns the rules with the names used in these files, and those of parameters that no file has. Raises one
    ValueError that lists every missing, unexpected, mis-shaped and mis-typed tensor.
    """
    resolved, wrong, used = {}, [], set()
    rules = for_paths(rules, (path for path in abstract if not path.endswith(SCALE)))
    for path, leaf in abstract.items():
        if path.endswith(SCALE):  # made with its int8 kernel
            continue
        rule = rules[path].spelled(shards.shapes)
        if rule.new is not None and rule.theirs in shards.shapes:  # our files may have tensors that public ones lack
            rule = dataclasses.replace(rule, new=None)
        resolved[path] = rule
        if rule.new is not None:
            continue
        layers = leaf.shape[0] if rule.stacked else rule.copies
        if layers > len(shards.shapes):
            raise ValueError(
                f"{shards.directory}: config.json asks for {layers} tensors {rule.theirs}, and the files "
                f"hold {len(shards.shapes)} tensors in all"
            )
        want = rule.tensor_shape(leaf.shape)
        for name in rule.names(leaf.shape):
            used.add(name)
            if name not in shards.shapes:
                wrong.append(f"missing     {name} {list(want)}")
            elif shards.shapes[name] != want:
                wrong.append(f"mis-shaped  {name} {list(shards.shapes[name])}, config.json asks for {list(want)}")
            elif shards.types[name] not in FLOATS:
                wrong.append(f"mis-typed   {name} is {shards.types[name]}; weights are {', '.join(FLOATS)}")
    wrong += [f"unexpected  {name}" for name in shards.shapes if name not in used and not ignored.fullmatch(name)]
    if wrong:
        lines = sorted(set(wrong))
        raise ValueError(
            f"{shards.directory}: {len(lines)} tensors do not fit its config.json:\n  " + "\n  ".join(lines)
        )
    return resolved


@partial(jax.jit, donate_argnums=0)
def _set_layer(stack: jax.Array, layer: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, index, 0)


@cache
def _zeros(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> Callable[[], jax.Array]:
    """A compiled function that creates a stack of zeros, shared by all stacks of this shape."""
    return jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding)


def _place(value: np.ndarray, dtype: Any, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index].astype(dtype))


def _draw(rule: Rule, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """A parameter that no file has, with a seed from its path only: the same on every mesh and host, in every run."""
    assert rule.new is not None
    key = jax.random.fold_in(jax.random.key(0), zlib.crc32(rule.ours.encode()))
    return jax.jit(rule.new, static_argnums=1, out_shardings=leaf.sharding)(key, leaf.shape)


def _read(rule: Rule, leaf: jax.ShapeDtypeStruct, shards: Shards) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Yield (path, layer or None, array) for every tensor of a rule; for an int8 kernel also its scales."""
    names = rule.names(leaf.shape)
    if rule.copies:
        _check_equal(names, shards)
        names = names[:1]
    for index, name in enumerate(names):
        value = rule.transform.read(shards.read(name))
        layer = index if rule.stacked else None
        if leaf.dtype == np.int8:
            value, scale = quantize(value)
            yield rule.ours + "_scale", layer, scale
        yield rule.ours, layer, value


def _check_equal(names: Sequence[str], shards: Shards) -> None:
    """Raise ValueError unless these tensors, copies of one parameter, are equal."""
    first = shards.read(names[0])
    for name in names[1:]:
        if not np.array_equal(shards.read(name), first):
            raise ValueError(f"{shards.directory}: {name} differs from {names[0]}; they are copies of one parameter")


def load(
    rules: Mapping[str, Rule],
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    shards: Shards,
    ignored: re.Pattern[str] = NONE,
) -> dict[str, jax.Array]:
    """Read every parameter in ``abstract`` (path -> shape, dtype, sharding) into its place; path -> array.

    Raises ValueError if the files do not fit (see `check`) or end inside a tensor.
    """
    arrays: dict[str, jax.Array] = {}
    resolved = check(rules, abstract, shards, ignored)
    for whole, rule in tqdm(resolved.items(), "loading", unit="array", leave=False, disable=None, delay=2):
        if rule.new is not None:
            arrays[whole] = _draw(rule, abstract[whole])
            continue
        for path, layer, value in _read(rule, abstract[whole], shards):
            leaf = abstract[path]
            sharding = leaf.sharding
            assert isinstance(sharding, NamedSharding)
            if layer is None:
                arrays[path] = _place(value, leaf.dtype, sharding)
                continue
            # A stack is filled layer by layer on the device, so that the host never has all layers of a kernel in
            # memory.
            if path not in arrays:
                arrays[path] = _zeros(leaf.shape, leaf.dtype, sharding)()
            one = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
            arrays[path] = _set_layer(arrays[path], _place(value, leaf.dtype, one), layer).block_until_ready()
    return arrays
