"""Stacks of identical layers: built as one module with a leading layer axis, run by one scan, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from instructblip_jax.sharding import constrain, gathered, residual

INNER = ("q", "k", "v", "gate", "up")
"""Products that the backward pass of a frozen layer reads, by the names that attention and feed-forwards give them."""


def _dots(primitive: Any, *operands: Any, **params: Any) -> Any:
    """Save the results of matrix products; those that are computed wider than their operands only by name, narrow."""
    wide = primitive is jax.lax.dot_general_p and params["preferred_element_type"] not in (None, operands[0].dtype)
    named = jax.checkpoint_policies.save_only_these_names("product")(primitive, *operands, **params)
    saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *operands, **params)
    return named or (saved and not wide)


REMAT = {
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "inner": jax.checkpoint_policies.save_only_these_names(*INNER),
    "products": jax.checkpoint_policies.save_only_these_names(*INNER, "o"),
    "dots": _dots,
}
"""Name -> what the backward pass keeps of each layer: everything; its input; also `INNER`, as the backward pass needs
them (rotated, scaled, in the compute type); these and the attention's output; or the results of all its products."""


def check_remat(remat: str) -> None:
    """Raise ValueError unless ``remat`` is a name in `REMAT`, or NAME:LENGTH (see `run`)."""
    name, colon, longest = remat.partition(":")
    if name not in REMAT or (colon and not longest.isdigit()):
        raise ValueError(
            f"remat {remat!r} is unknown; there are {', '.join(REMAT)}, and NAME:LENGTH, "
            "which is NAME up to that many positions and layer for longer sequences"
        )


def _policy(remat: str, x: jax.Array) -> Callable | None:
    """The entry of `REMAT` for ``x``, [B, (N,) T, D]; see `run`."""
    name, _, longest = remat.partition(":")
    return REMAT["layer" if longest and x.shape[-2] > int(longest) else name]


def build(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """Make ``layers`` instances of a module as a single one; every parameter gains a leading "layers" axis."""
    stacked = nnx.vmap(make, transform_metadata={nnx.PARTITION_NAME: "layers", "axes": "layers"})
    return stacked(rngs.split(layers))


def depth(stack: nnx.Module) -> int:
    """Number of layers L of a stack."""
    return jax.tree.leaves(nnx.to_pure_dict(nnx.split(stack)[1]))[0].shape[0]


def init_cache(keys: jax.Array, rows: int, length: int) -> dict[str, jax.Array]:
    """Empty KV cache for ``length`` tokens of ``rows`` continuations of each example of a context.

    ``keys``: those of the context, [L, B, G, S, K]. Returns keys and values [L, B, N, G, T, K] of the same type.
    """
    layers, batch, heads, _, size = keys.shape
    empty = jnp.zeros((layers, batch, rows, heads, length, size), keys.dtype)
    empty = constrain(empty, None, "batch", None, "heads", None, None)
    return {"k": empty, "v": empty}


def update_cache(
    cache: dict[str, jax.Array], new: dict[str, jax.Array], index: jax.Array | int
) -> dict[str, jax.Array]:
    """A layer's cache, arrays [B, N, G, S, K], with new ones [B, N, G, T, K] written at positions from ``index`` on."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(array, new[name].astype(array.dtype), index, axis=3)
        for name, array in cache.items()
    }


def _members(stack: nnx.Module) -> tuple[dict, Callable[[dict], Any]]:
    """Parameters of a stack, [L, ...] each, and the function that makes a module of one layer's parameters."""
    graph, state = nnx.split(stack)
    axes = {path: variable.get_metadata()["axes"][1:] for path, variable in nnx.to_flat_state(state)}

    def member(params: dict) -> Any:
        flat = traverse_util.flatten_dict(params)
        placed = {path: gathered(x, *axes[path]) for path, x in flat.items()}
        return nnx.merge(graph, traverse_util.unflatten_dict(placed))

    return nnx.to_pure_dict(state), member


def run(
    stack: nnx.Module,
    x: jax.Array,
    body: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    *,
    inputs: Any = None,
    remat: str = "none",
) -> tuple[jax.Array, Any]:
    """Scan ``body(layer, x, layer_input) -> (x, layer_output)`` over the layers, x [B, (N,) T, D].

    ``inputs``: a tree of arrays [L, ...] with one input per layer (such as its slice of a cache), or None. ``remat``: a
    name in `REMAT`, or NAME:LENGTH for NAME where T is at most LENGTH and "layer" where it is longer. Returns the last
    x and the stacked layer outputs, a tree of arrays [L, ...].
    """
    params, member = _members(stack)

    def layer(x: jax.Array, args: tuple[Any, Any]) -> tuple[jax.Array, Any]:
        layer_params, layer_input = args
        return body(member(layer_params), residual(x) if x.ndim > 2 else x, layer_input)

    if (policy := _policy(remat, x)) is not None:
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    return jax.lax.scan(layer, x, (params, inputs))


def run_groups(
    layers: nnx.Module,
    leaders: nnx.Module,
    size: int,
    x: jax.Array,
    body: Callable[[jax.Array, list, Any, Any], tuple[jax.Array, Any]],
    *,
    inputs: Any = None,
    remat: str = "none",
) -> tuple[jax.Array, Any]:
    """Scan ``body(x, layers, leader, inputs) -> (x, outputs)`` over groups of ``size`` layers with one leader each.

    ``inputs`` and outputs are trees of arrays [L, ...], or None; a group has the rows of its layers. The last group may
    be smaller. ``remat`` as in `run`, applied to whole groups. Returns the last x and all outputs.
    """
    (params, member), (leader_params, leader_member) = _members(layers), _members(leaders)

    def group(x: jax.Array, args: tuple[Any, Any, Any]) -> tuple[jax.Array, Any]:
        group_params, one_leader_params, group_inputs = args
        count = jax.tree.leaves(group_params)[0].shape[0]
        members = [member(jax.tree.map(lambda p, n=n: p[n], group_params)) for n in range(count)]
        return body(x, members, leader_member(one_leader_params), group_inputs)

    if (policy := _policy(remat, x)) is not None:
        group = jax.checkpoint(group, policy=policy, prevent_cse=False)
    total = depth(layers)
    whole = total // size
    in_groups = jax.tree.map(lambda p: p[: whole * size].reshape(whole, size, *p.shape[1:]), (params, inputs))
    first_leaders = jax.tree.map(lambda p: p[:whole], leader_params)
    x, outputs = jax.lax.scan(group, x, (in_groups[0], first_leaders, in_groups[1]))
    outputs = jax.tree.map(lambda y: y.reshape(whole * size, *y.shape[2:]), outputs)
    if total % size:
        rest, rest_inputs = jax.tree.map(lambda p: p[whole * size :], (params, inputs))
        x, rest_outputs = group(x, (rest, jax.tree.map(lambda p: p[whole], leader_params), rest_inputs))
        outputs = jax.tree.map(lambda *y: jnp.concatenate(y), outputs, rest_outputs)
    return x, outputs
