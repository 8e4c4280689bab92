"""Logical axis names and how they are sharded over the mesh: one table per layout.

Every parameter has ``axes``, one logical name (or None) per dimension; a layout of `LAYOUTS` maps each name to the mesh
axes over which it is split, for parameters and for activations. Dimension letters in shape comments everywhere:

    B batch   F frames   P patches   Q queries   T text   Tq instruction   To output   S keys
    L layers  D width    H heads     K head size M MLP width   V vocabulary   N candidates or beams
"""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

_TENSOR = {"batch": BATCH_AXES, "heads": ("tensor",), "mlp": ("tensor",), "vocab": ("tensor",)}
LAYOUTS: dict[str, Mapping[str, tuple[str, ...]]] = {
    # Every device holds all parameters and works on its own rows: no communication.
    "replicated": {"batch": MESH_AXES},
    # Every device works on its own rows; parameters are stored in shards and gathered before use, layer by layer.
    "fsdp": {"batch": MESH_AXES, "embed": ("fsdp", "tensor")},
    # Each matrix is split; the devices of a tensor group work on the same rows and sum their partial results.
    "tensor": _TENSOR,
    # As "tensor", and between the products each device keeps a part of the sequence: less memory, same communication.
    "sequence": _TENSOR | {"length": ("tensor",)},
    # Split along both axes: least memory, most communication.
    "sharded": _TENSOR | {"embed": ("fsdp",)},
    # As "replicated", but masters, gradients and the optimizer's moments are split over all devices: each updates its
    # share, and all shares are gathered once per step, in the compute type (ZeRO, arXiv 1910.02054, stages 1 and 2).
    "zero": dict.fromkeys(("batch", "embed", "heads", "mlp", "vocab"), MESH_AXES),
}
"""Layout -> logical axis -> mesh axes. A logical axis without an entry ("layers", None, ...) is never split."""


GATHERED_ONCE = "zero"
"""The layout whose trained parameters `in_use` gathers."""
REST = "trained"
"""The name, in a `Layout`, of all parameters outside of parts, which most systems train."""
DEFAULT = "sharded"


@dataclasses.dataclass(frozen=True, init=False)
class Layout:
    """The sharding of each part of a model: Layout(trained="fsdp", llm="tensor"), by names of `LAYOUTS`.

    The parts are those in the system's configuration (`systems.protocol.SystemConfig.parts`); `REST` is everything
    else. A part that is not given is "sharded", split along both axes. Raises ValueError for an unknown layout.
    """

    named: tuple[tuple[str, str], ...]

    def __init__(self, **names: str):
        for part, name in names.items():
            if name not in LAYOUTS:
                raise ValueError(f"layout.{part} {name!r} is unknown; expected one of {', '.join(LAYOUTS)}")
        object.__setattr__(self, "named", tuple(sorted(names.items())))

    def of(self, part: str) -> str:
        """The layout of a part, or of `REST`."""
        return dict(self.named).get(part, DEFAULT)

    def of_path(self, path: str, parts: Collection[str]) -> str:
        """The layout of the parameter at ``path`` ("llm/layers/attn/q/kernel") of a system with these parts."""
        return self.of(part_of(path, parts))

    def check(self, parts: Collection[str]) -> None:
        """Raise ValueError naming a part that the system does not have."""
        for part, _ in self.named:
            if part != REST and part not in parts:
                raise ValueError(f"layout.{part}: this system has no such part; it has {', '.join((*parts, REST))}")


def part_of(path: str, parts: Collection[str]) -> str:
    """The part to which the parameter at ``path`` belongs: the first component of the path, or `REST`."""
    return next((part for part in parts if path.startswith(f"{part}/")), REST)


SHARDED = Layout()
"""The default: every part is split along both axes."""
_in_force: ContextVar[str] = ContextVar("layout", default=DEFAULT)


@contextlib.contextmanager
def laid_out(layout: str) -> Iterator[None]:
    """Make `constrain` follow ``layout`` while a part is traced."""
    token = _in_force.set(layout)
    try:
        yield
    finally:
        _in_force.reset(token)


def partition_spec(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | jax.sharding.AbstractMesh, layout: str
) -> PartitionSpec:
    """The PartitionSpec of an array of ``shape`` whose dimensions have these logical names.

    A dimension that is not divisible by its mesh axes is split over the first few axes that divide it, or not at all
    (an odd vocabulary size, for example): this is correct, but less balanced. An axis splits only one dimension, the
    first possible one.
    """
    parts: list[tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        names = LAYOUTS[layout].get(name, ()) if name is not None else ()
        names = tuple(n for n in names if not any(n in (part or ()) for part in parts))
        while names and size % math.prod(mesh.shape[n] for n in names):
            names = names[:-1]
        parts.append(tuple(n for n in names if mesh.shape[n] > 1) or None)
    return PartitionSpec(*parts)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrain the sharding of ``x`` by its logical axes and the current layout and mesh; without a mesh, ``x``."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh, _in_force.get()))


def platform() -> str:
    """Platform of the current mesh, for which this program is compiled ("cpu", "gpu", "tpu"); "" without a mesh."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else ""


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def in_use(master: jax.Array, dtype: DTypeLike, home: PartitionSpec | None) -> jax.Array:
    """A trained parameter for use in the model: in its compute type and, if its ``home`` is sharded, gathered.

    The gradient takes the reverse way: it is summed over the devices in the compute type, and each keeps its shard.
    """
    used = master.astype(dtype)
    return used if home is None else _on_mesh(used, PartitionSpec())


def _in_use_forward(master: jax.Array, dtype: DTypeLike, home: PartitionSpec | None) -> tuple[jax.Array, None]:
    return in_use(master, dtype, home), None


def _in_use_backward(dtype: DTypeLike, home: PartitionSpec | None, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return ((gradient if home is None else _on_mesh(gradient, home)).astype(jnp.float32),)


in_use.defvjp(_in_use_forward, _in_use_backward)


def _on_mesh(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, spec)


def gathered(parameter: jax.Array, *axes: str | None) -> jax.Array:
    """All-gather a parameter along "embed" before use; some layouts store it sharded there.

    Without this constraint the compiler moves activations instead, or multiplies shard by shard. A parameter in the
    layout "zero" is already complete (`in_use`), and its gradient is summed as a whole here, which is faster than the
    ring of shards that the compiler would otherwise choose.
    """
    once = _in_force.get() == GATHERED_ONCE
    return constrain(parameter, *(None if once or name == "embed" else name for name in axes))


def residual(x: jax.Array) -> jax.Array:
    """The residual stream between layers, [B, (N,) T, D]; the "sequence" layout shards its length."""
    return constrain(x, "batch", *(None,) * (x.ndim - 3), "length", None)


def whole(x: jax.Array) -> jax.Array:
    """[B, (N,) T, D] before a matrix product: gathered along its length, so that parameters are not moved."""
    return constrain(x, "batch", *(None,) * (x.ndim - 1))
