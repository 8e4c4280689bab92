"""Logical axis names and how they lie on the mesh.

Every parameter carries ``axes``, one logical name (or None) per dimension; `RULES` says which mesh axis each name is
split over. Dimension letters used in shape comments everywhere:

    B batch   F frames   P patches   Q queries   T text   Tq instruction   To output   S keys
    L layers  D width    H heads     K head size M MLP width   V vocabulary   N candidates or beams
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

RULES: dict[str, str | tuple[str, ...]] = {
    "batch": BATCH_AXES,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}
"""Logical axis -> mesh axis. Names that are not here ("layers", "length", None) are never split."""


def partition_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | jax.sharding.AbstractMesh):
    """The PartitionSpec of an array of ``shape`` whose dimensions have these logical names.

    A dimension that its mesh axes do not divide (an odd vocabulary, say) stays whole: correct, only less even.
    """
    parts: list[str | tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        target = RULES.get(name) if name is not None else None
        names = (target,) if isinstance(target, str) else (target or ())
        ways = math.prod(mesh.shape[n] for n in names)
        parts.append(target if ways > 1 and size % ways == 0 else None)
    return PartitionSpec(*parts)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Ask the compiler to lay ``x`` out by its logical axes on the mesh in force; without a mesh, ``x`` itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh))
