"""Device meshes, and arrays put on them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from instructblip_jax.axes import BATCH_AXES, MESH_AXES, partition_spec


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh over the devices (default: all of them); one of the sizes may be -1, "the rest".

    Raises ValueError when the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dict(zip(MESH_AXES, (data, fsdp, tensor), strict=True))
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh {sizes}: sizes are positive, and at most one of them is -1 (the rest)")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if free:
        sizes[free[0]] = max(1, len(devices) // fixed)
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor} do not divide the {len(devices)} devices of "
            f"this run; choose sizes whose product is {len(devices)} (one of them may be -1)"
        )
    # Auto axes: the compiler places the activations; explicit ones would have every matrix product annotated by hand.
    shape = tuple(sizes.values())
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape), devices=devices)


def single_device_mesh() -> Mesh:
    """The mesh of one device, so that one device and many run the same code."""
    return make_mesh(1, 1, 1, devices=jax.local_devices()[:1])


def batch_shards(mesh: Mesh) -> int:
    """Over how many devices a batch is split: the global batch size must be a multiple of it."""
    return int(np.prod([mesh.shape[name] for name in BATCH_AXES]))


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray | jax.Array]) -> dict[str, jax.Array]:
    """This host's rows of a batch -> global arrays, split over all axes of the mesh, or the first that divide them."""
    rows = next(iter(batch.values())).shape[0] * jax.process_count()
    sharding = NamedSharding(mesh, partition_spec(("batch",), (rows,), mesh, "replicated"))
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}


def pin(mesh: Mesh, tree: Any) -> Any:
    """Arrays that are not on the mesh yet (optimizer counters, keys) -> replicated over it."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(x: Any) -> jax.Array:
        return x if isinstance(getattr(x, "sharding", None), NamedSharding) else jax.device_put(x, replicated)

    return jax.tree.map(place, tree)
