"""Stacks of identical layers: one module with a leading layer axis, run by one scan and compiled once; or a list of
separate layers, run one after the other, whose arrays are read in place."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from instructblip_jax.sharding import gathered, platform, residual

INNER = ("q", "k", "v", "gate", "up")
"""Names, given by attention and feed-forwards, of the products that the backward pass of a frozen layer reads."""


def _dots(primitive: Any, *operands: Any, **params: Any) -> Any:
    """Save the results of matrix products; those computed in a wider type than their operands only by name,
    narrowed."""
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
"""Name -> the activations of each layer kept for the backward pass: everything; its input; also `INNER`, in the form
that the backward pass needs (rotated, scaled, in the compute type); these and the attention's output; or the results of
all its products."""


def check_remat(remat: str) -> None:
    """Raise ValueError unless ``remat`` is a name in `REMAT`, or NAME:LENGTH (see `run`)."""
    name, colon, longest = remat.partition(":")
    if name not in REMAT or (colon and not longest.isdigit()):
        raise ValueError(
            f"remat {remat!r} is unknown; expected one of {', '.join(REMAT)}, or NAME:LENGTH, "
            "which is NAME up to LENGTH positions and layer for longer sequences"
        )


def _policy(remat: str, x: jax.Array) -> Callable | None:
    """The entry of `REMAT` for ``x``, [B, (N,) T, D]; see `run`."""
    name, _, longest = remat.partition(":")
    return REMAT["layer" if longest and x.shape[-2] > int(longest) else name]


SHORT = 12
"""Largest number of float32 layers that run as a loop on a CPU, where a scan's slices and stores copy memory."""


def build(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """Make ``layers`` instances of a module as a single one; every parameter gains a leading "layers" axis."""
    stacked = nnx.vmap(make, transform_metadata={nnx.PARTITION_NAME: "layers", "axes": "layers"})
    stack = stacked(rngs.split(layers))
    stack.stacked_layers = layers  # type: ignore[attr-defined]
    return stack


def joined(make: Callable[..., nnx.Module], *stacks: nnx.Module | None) -> nnx.Module:
    """Combine stacks of the same depth into one: its layer is ``make`` of a layer of each, in which None stays None.

    Two models can thus share some of their stacks.
    """
    first = next(stack for stack in stacks if stack is not None)
    if isinstance(first, nnx.List):
        apart: Any = [stack or [None] * depth(first) for stack in stacks]
        return nnx.List(map(make, *apart))
    whole = make(*stacks)
    whole.stacked_layers = depth(first)  # type: ignore[attr-defined]
    return whole


def depth(stack: nnx.Module) -> int:
    """Number of layers L of a stack."""
    return len(stack) if isinstance(stack, nnx.List) else stack.stacked_layers  # type: ignore[attr-defined]


def numbers(stack: nnx.Module) -> Sequence[int] | jax.Array:
    """Layer indices 0 to L - 1, as an input of `run`."""
    return range(depth(stack)) if isinstance(stack, nnx.List) else jnp.arange(depth(stack))


def unstack(module: nnx.Module, keep: Callable[[str], bool], path: str = "") -> None:
    """Replace the stacks in ``module`` by lists of their layers, each with its own arrays.

    A product then reads a layer's weights in place; a GPU would first copy them out of a stack. A stack is kept if
    ``keep`` is true of its path ("qformer/layers").
    """
    for name, child in list(vars(module).items()):
        here = f"{path}{name}"
        if not isinstance(child, nnx.Module):
            continue
        if not hasattr(child, "stacked_layers"):
            unstack(child, keep, f"{here}/")
        elif not keep(here):
            setattr(module, name, nnx.List(_layers(child)))


def place_of(path: str) -> tuple[str, int | None]:
    """A parameter's path -> its path in a stack, and the index of its layer if layers are separate, else None:
    "llm/layers/3/ffn/up/kernel" -> ("llm/layers/ffn/up/kernel", 3)."""
    if (apart := re.fullmatch(r"(.*)/(\d+)/(.*)", path)) is None:
        return path, None
    before, number, after = apart.groups()
    return f"{before}/{after}", int(number)


def _layers(stack: nnx.Module) -> list[nnx.Module]:
    """The layers of a stack as modules."""
    graph, state = nnx.split(stack)
    made = []
    for n in range(depth(stack)):
        flat = [
            (path, variable.replace(variable[...][n], axes=variable.get_metadata()["axes"][1:]))
            for path, variable in nnx.to_flat_state(state)
        ]
        layer: Any = nnx.merge(graph, nnx.from_flat_state(flat))
        del layer.stacked_layers
        made.append(layer)
    return made


def _members(module: nnx.Module) -> tuple[dict, Callable[[dict], Any]]:
    """Parameters of a layer, or of a stack ([L, ...] each), and a function that makes a layer from its parameters."""
    graph, state = nnx.split(module)
    first = 1 if hasattr(module, "stacked_layers") else 0
    axes = {path: variable.get_metadata()["axes"][first:] for path, variable in nnx.to_flat_state(state)}

    def member(params: dict) -> Any:
        flat = traverse_util.flatten_dict(params)
        placed = {path: gathered(x, *axes[path]) for path, x in flat.items()}
        return nnx.merge(graph, traverse_util.unflatten_dict(placed))

    return nnx.to_pure_dict(state), member


def run(
    stack: nnx.Module,
    x: Any,
    body: Callable[..., tuple[Any, Any]],
    *inputs: Any,
    remat: str = "none",
) -> tuple[Any, Any]:
    """Run ``body(layer, x, *layer_inputs) -> (x, layer_output)`` through the layers: a scan over a stack, or a loop
    over a list of layers (see `unstack`) and, on a CPU, over a `SHORT` stack without inputs.

    x is [B, (N,) T, D], or any tree. Each of ``inputs`` and the outputs is a tree of arrays [L, ...] for a stack, a
    sequence of L trees for a list, or None. ``remat``: a name in `REMAT`, or NAME:LENGTH for NAME if T is at most
    LENGTH and "layer" otherwise. Returns the last x and the layers' outputs.
    """

    def step(member: Callable[[dict], Any], in_scan: bool) -> Callable[..., tuple[Any, Any]]:
        def layer(x: Any, args: tuple[dict, tuple]) -> tuple[Any, Any]:
            params, own = args
            return body(member(params), residual(x) if isinstance(x, jax.Array) and x.ndim > 2 else x, *own)

        if (policy := _policy(remat, x)) is None:
            return layer
        # In a scan, recomputation cannot be merged with the first computation; in a loop the compiler would merge them.
        return jax.checkpoint(layer, policy=policy, prevent_cse=not in_scan)

    stacked = not isinstance(stack, nnx.List)
    if stacked and (inputs or not _short(stack, x)):
        params, member = _members(stack)
        return jax.lax.scan(step(member, True), x, (params, inputs))
    outputs = []
    for n, (params, member) in enumerate(_each(stack)):
        x, output = step(member, False)(x, (params, tuple(None if own is None else own[n] for own in inputs)))
        outputs.append(output)
    if stacked:
        return x, jax.tree.map(lambda *y: jnp.stack(y), *outputs)
    return x, None if all(output is None for output in outputs) else outputs


def _short(stack: nnx.Module, x: Any) -> bool:
    # In a loop of bfloat16 layers XLA omits roundings between them: results would depend on the mesh.
    wide = all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(x))
    return wide and depth(stack) <= SHORT and platform() == "cpu"


def run_groups(
    layers: nnx.Module,
    leaders: nnx.Module,
    size: int,
    x: Any,
    body: Callable[[Any, list, Any, list, Any], tuple[Any, list]],
    *inputs: Any,
    leader_inputs: Any = None,
    remat: str = "none",
) -> tuple[Any, Any]:
    """Scan ``body(x, layers, leader, inputs, leader_input) -> (x, outputs)`` over groups of layers, each with a leader.

    A group has ``size`` layers; the last one may have fewer, and no leader: leader and leader input are then None. The
    body gets and returns lists with one item per layer: a tuple of its ``inputs``, and its output. ``inputs``
    and outputs of layers, ``leader_inputs`` of leaders: the same as in `run`. ``remat`` as there, applied to whole
    groups. Returns the last x and all outputs. Lists and `SHORT` stacks run as a loop.
    """
    if isinstance(layers, nnx.List) or isinstance(leaders, nnx.List) or _short(layers, x):
        return _loop_groups(layers, leaders, size, x, body, inputs, leader_inputs, remat)
    (params, member), (leader_params, leader_member) = _members(layers), _members(leaders)

    def group(count: int, x: Any, args: tuple[Any, Any]) -> tuple[Any, Any]:
        # Each layer is read in place from the stack: a group's slice would be copied first.
        start, of_leader = args
        members = [member(jax.tree.map(lambda p, n=n: p[start + n], params)) for n in range(count)]
        own = [_of_layer(inputs, start + n, apart=False) for n in range(count)]
        leader, leader_input = (None, None) if of_leader is None else (leader_member(of_leader[0]), of_leader[1])
        x, outputs = body(x, members, leader, own, leader_input)
        return x, jax.tree.map(lambda *y: jnp.stack(y), *outputs)

    def of(count: int) -> Callable[..., tuple[Any, Any]]:
        policy = _policy(remat, x)
        own = partial(group, count)
        return own if policy is None else jax.checkpoint(own, policy=policy, prevent_cse=False)

    total = depth(layers)
    whole = total // size
    of_leaders = (leader_params, leader_inputs)
    starts = jnp.arange(whole) * size
    last, outputs = jax.lax.scan(of(size), x, (starts, jax.tree.map(lambda p: p[:whole], of_leaders)))
    outputs = jax.tree.map(lambda y: y.reshape(whole * size, *y.shape[2:]), outputs)
    if total % size:
        led = jax.tree.map(lambda p: p[whole], of_leaders) if depth(leaders) > whole else None
        last, rest_outputs = of(total % size)(last, (whole * size, led))
        outputs = jax.tree.map(lambda *y: jnp.concatenate(y), outputs, rest_outputs)
    return last, outputs


Member = tuple[dict, Callable[[dict], Any]]


def _of_layer(inputs: Sequence[Any], n: int | jax.Array, *, apart: bool) -> tuple:
    """The inputs of layer ``n``: rows of arrays, or items of sequences if the layers are separate (``apart``)."""
    return tuple(None if one is None else one[n] if apart else jax.tree.map(lambda p: p[n], one) for one in inputs)


def _each(layers: nnx.Module) -> list[Member]:
    """Every layer of a list or a stack, as its parameters and the function that makes the layer from them."""
    if isinstance(layers, nnx.List):
        return [_members(module) for module in layers]
    params, member = _members(layers)
    leaves, form = jax.tree.flatten(params)
    # A split's gradient is one concatenation; that of L slices would be a sum of L padded arrays.
    split = [[row[0] for row in jax.lax.split(leaf, [1] * depth(layers))] for leaf in leaves]
    return [(jax.tree.unflatten(form, row), member) for row in zip(*split, strict=True)]


def _loop_groups(
    layers: nnx.Module,
    leaders: nnx.Module,
    size: int,
    x: Any,
    body: Callable,
    inputs: tuple,
    leader_inputs: Any,
    remat: str,
) -> tuple[Any, Any]:
    """`run_groups` as a loop."""
    found, of_leaders = _each(layers), _each(leaders)
    apart, leader_apart = isinstance(layers, nnx.List), isinstance(leaders, nnx.List)
    outputs: list = []
    for start in range(0, len(found), size):
        params, members = zip(*found[start : start + size], strict=True)
        number = start // size
        leader_params, leader = of_leaders[number] if number < len(of_leaders) else (None, lambda _: None)
        own = [_of_layer(inputs, start + n, apart=apart) for n in range(len(members))]
        (led,) = _of_layer([leader_inputs], number, apart=leader_apart) if leader_params is not None else (None,)

        def group(members: Any, leader: Any, x: Any, args: tuple) -> tuple[Any, list]:
            params, leader_params, own, leader_input = args
            made = [member(p) for member, p in zip(members, params, strict=True)]
            return body(x, made, leader(leader_params), own, leader_input)

        step: Callable[..., Any] = partial(group, members, leader)
        if (policy := _policy(remat, x)) is not None:
            step = jax.checkpoint(step, policy=policy)
        x, output = step(x, (params, leader_params, own, led))
        outputs += output
    if not apart:
        return x, jax.tree.map(lambda *y: jnp.stack(y), *outputs)
    return x, None if all(output is None for output in outputs) else outputs
