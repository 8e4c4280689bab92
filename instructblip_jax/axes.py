"""Logical axis names and how they lie on the mesh: one table a layout.

Every parameter carries ``axes``, one logical name (or None) per dimension; a layout of `LAYOUTS` says which mesh axes
each name is split over, for parameters and for activations. Dimension letters used in shape comments everywhere:

    B batch   F frames   P patches   Q queries   T text   Tq instruction   To output   S keys
    L layers  D width    H heads     K head size M MLP width   V vocabulary   N candidates or beams
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar

import jax
from jax.sharding import Mesh, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

_TENSOR = {"batch": BATCH_AXES, "heads": ("tensor",), "mlp": ("tensor",), "vocab": ("tensor",)}
LAYOUTS: dict[str, Mapping[str, tuple[str, ...]]] = {
    # Every device holds all of it and works on rows of its own: nothing is ever sent.
    "replicated": {"batch": MESH_AXES},
    # Rows of its own, but parameters are kept in pieces and gathered where they are used, layer by layer.
    "fsdp": {"batch": MESH_AXES, "embed": ("fsdp", "tensor")},
    # Each matrix is cut; devices of a tensor group work on the same rows and add up what they found.
    "tensor": _TENSOR,
    # The same, and between the products each device keeps a part of the sequence: less memory, as many bytes sent.
    "sequence": _TENSOR | {"length": ("tensor",)},
    # Cut along both: the least memory, and the most to send.
    "sharded": _TENSOR | {"embed": ("fsdp",)},
}
"""Layout -> logical axis -> mesh axes. Names that are not there ("layers", None, ...) are never split."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How each part of a model lies on the mesh, by names of `LAYOUTS`.

    ``vit`` and ``llm`` are the frozen towers; ``trained`` is the rest: Q-Former, query tokens and projection, with
    their gradients and moments. Raises ValueError for an unknown name.
    """

    trained: str = "sharded"
    vit: str = "sharded"
    llm: str = "sharded"

    def __post_init__(self) -> None:
        for field, name in dataclasses.asdict(self).items():
            if name not in LAYOUTS:
                raise ValueError(f"layout.{field} {name!r} is unknown; there are {', '.join(LAYOUTS)}")

    def of(self, path: str) -> str:
        """The layout of the parameter at ``path`` ("llm/layers/attn/q/kernel")."""
        part = path.partition("/")[0]
        return getattr(self, part) if part in ("vit", "llm") else self.trained


SHARDED = Layout()
"""The default: every part cut along both axes."""
_in_force: ContextVar[str] = ContextVar("layout", default=SHARDED.trained)


@contextlib.contextmanager
def laid_out(layout: str) -> Iterator[None]:
    """While a part is traced: `constrain` follows this layout."""
    token = _in_force.set(layout)
    try:
        yield
    finally:
        _in_force.reset(token)


def partition_spec(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | jax.sharding.AbstractMesh, layout: str
) -> PartitionSpec:
    """The PartitionSpec of an array of ``shape`` whose dimensions have these logical names.

    A dimension that its mesh axes do not divide is split over the first few of them that do, or stays whole (an odd
    vocabulary, say): correct, only less even.
    """
    parts: list[tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        names = LAYOUTS[layout].get(name, ()) if name is not None else ()
        while names and size % math.prod(mesh.shape[n] for n in names):
            names = names[:-1]
        parts.append(tuple(n for n in names if mesh.shape[n] > 1) or None)
    return PartitionSpec(*parts)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Ask the compiler to lay ``x`` out by its logical axes and the layout and mesh in force; without a mesh, ``x``."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh, _in_force.get()))


def gathered(parameter: jax.Array, *axes: str | None) -> jax.Array:
    """A parameter where it is used: whole along "embed", along which some layouts only keep it in pieces.

    Left to itself the compiler would send activations around instead, or multiply piece by piece.
    """
    return constrain(parameter, *(None if name == "embed" else name for name in axes))


def residual(x: jax.Array) -> jax.Array:
    """What runs from layer to layer, [B, (N,) T, D]: in some layouts each device keeps a part of its length."""
    return constrain(x, "batch", *(None,) * (x.ndim - 3), "length", None)


def whole(x: jax.Array) -> jax.Array:
    """[B, (N,) T, D] before a product: its length whole again, so that the parameters can stay where they are."""
    return constrain(x, "batch", *(None,) * (x.ndim - 1))
