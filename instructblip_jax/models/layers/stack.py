"""Identical layers: built as one module with a leading layer axis, run by one scan, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from instructblip_jax.sharding import constrain, gathered, residual

REMAT = {
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass keeps of each layer: everything, nothing but its input, or the matrix products."""


def build(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """``layers`` copies of one module as a single one; every parameter gains a leading "layers" axis."""
    stacked = nnx.vmap(make, transform_metadata={nnx.PARTITION_NAME: "layers", "axes": "layers"})
    return stacked(rngs.split(layers))


def depth(stack: nnx.Module) -> int:
    """The number of layers."""
    return jax.tree.leaves(nnx.to_pure_dict(nnx.split(stack)[1]))[0].shape[0]


def init_cache(keys: jax.Array, rows: int, length: int) -> dict[str, jax.Array]:
    """An empty cache beside a context's keys [L, B, G, S, K]: for ``length`` tokens of ``rows`` continuations of each
    example, keys and values [L, B, N, G, T, K]."""
    layers, batch, heads, _, size = keys.shape
    empty = jnp.zeros((layers, batch, rows, heads, length, size), keys.dtype)
    empty = constrain(empty, None, "batch", None, "heads", None, None)
    return {"k": empty, "v": empty}


def update_cache(
    cache: dict[str, jax.Array], new: dict[str, jax.Array], index: jax.Array | int
) -> dict[str, jax.Array]:
    """A layer's cached arrays [B, N, G, S, K] with new ones [B, N, G, T, K] in their places from ``index`` on."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(array, new[name].astype(array.dtype), index, axis=3)
        for name, array in cache.items()
    }


def _members(stack: nnx.Module) -> tuple[dict, Callable[[dict], Any]]:
    """The parameters of a stack, [L, ...] each, and what makes a module of one layer's."""
    graph, state = nnx.split(stack)
    axes = {path: variable.get_metadata()["axes"][1:] for path, variable in nnx.to_flat_state(state)}

    def one(params: dict) -> Any:
        flat = traverse_util.flatten_dict(params)
        placed = {path: gathered(x, *axes[path]) for path, x in flat.items()}
        return nnx.merge(graph, traverse_util.unflatten_dict(placed))

    return nnx.to_pure_dict(state), one


def run(
    stack: nnx.Module,
    x: jax.Array,
    body: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    *,
    inputs: Any = None,
    remat: str = "none",
) -> tuple[jax.Array, Any]:
    """Scan ``body(layer, x, layer_input) -> (x, layer_output)`` over the layers, x [B, (N,) T, D] in rows.

    ``inputs``: a tree of arrays [L, ...] with each layer's own input (its slice of a cache, say), or None. Returns the
    last x and the tree of stacked layer outputs.
    """
    params, one = _members(stack)

    def layer(x: jax.Array, args: tuple[Any, Any]) -> tuple[jax.Array, Any]:
        layer_params, layer_input = args
        return body(one(layer_params), residual(x) if x.ndim > 2 else x, layer_input)

    if REMAT[remat] is not None:
        layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    return jax.lax.scan(layer, x, (params, inputs))


def run_groups(
    layers: nnx.Module,
    heads: nnx.Module,
    size: int,
    x: jax.Array,
    body: Callable[[jax.Array, list, Any, Any], jax.Array],
    inputs: Any = None,
) -> jax.Array:
    """Scan ``body(x, layers, head, inputs) -> x`` over groups of ``size`` layers, each with one module of ``heads``.

    ``inputs``: a tree of arrays [L, ...], or None; a group gets its layers' part. A last group may have fewer layers.
    """
    (params, one_layer), (head_params, one_head) = _members(layers), _members(heads)

    def group(x: jax.Array, args: tuple[Any, Any, Any]) -> tuple[jax.Array, None]:
        group_params, of_head, group_inputs = args
        count = jax.tree.leaves(group_params)[0].shape[0]
        members = [one_layer(jax.tree.map(lambda p, n=n: p[n], group_params)) for n in range(count)]
        return body(x, members, one_head(of_head), group_inputs), None

    total = depth(layers)
    whole = total // size
    in_groups = jax.tree.map(lambda p: p[: whole * size].reshape(whole, size, *p.shape[1:]), (params, inputs))
    x, _ = jax.lax.scan(group, x, (in_groups[0], jax.tree.map(lambda p: p[:whole], head_params), in_groups[1]))
    if total % size:
        rest, rest_inputs = jax.tree.map(lambda p: p[whole * size :], (params, inputs))
        x, _ = group(x, (rest, jax.tree.map(lambda p: p[whole], head_params), rest_inputs))
    return x
