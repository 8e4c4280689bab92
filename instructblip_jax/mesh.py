"""Device meshes, and moving arrays to and from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from instructblip_jax.sharding import BATCH_AXES, MESH_AXES, partition_spec


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make a (data, fsdp, tensor) mesh over the devices (default: all of them); one of the sizes may be -1, "the rest".

    Several TPU slices are placed along data, so that the slow network between them carries only gradients. Raises
    ValueError if the product of the sizes is not the number of devices, or if data is not a multiple of the number of
    slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dict(zip(MESH_AXES, (data, fsdp, tensor), strict=True))
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh {sizes}: sizes must be positive, except that one of them may be -1 (the rest)")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if free:
        sizes[free[0]] = max(1, len(devices) // fixed)
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor} do not divide the {len(devices)} devices of "
            f"this run; choose sizes whose product is {len(devices)} (one of them may be -1)"
        )
    # Auto axes: the compiler shards the activations; explicit axes would need annotations at every matrix product.
    shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(sizes)
    # On GPUs every node is a "slice", and any axis may cross nodes. Compile-only devices may lack the index.
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if slices == 1:
        return jax.make_mesh(shape, MESH_AXES, axis_types=types, devices=devices)
    if sizes["data"] % slices:
        raise ValueError(f"mesh.data is {sizes['data']}; over {slices} TPU slices it must be a multiple of {slices}")
    inside = (sizes["data"] // slices, *shape[1:])
    grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, *[1] * len(shape[1:])), devices)
    return Mesh(grid, MESH_AXES, axis_types=types)


def single_device_mesh() -> Mesh:
    """A mesh of one device, so that one device and many run the same code."""
    return make_mesh(1, 1, 1, devices=jax.local_devices()[:1])


def described(mesh: Mesh) -> str:
    """A mesh in words: its devices, and the sizes of its axes."""
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {axes}"


def batch_shards(mesh: Mesh) -> int:
    """Number of devices over which a batch is split; the global batch size must be a multiple of it."""
    return int(np.prod([mesh.shape[name] for name in BATCH_AXES]))


def batch_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """Sharding of a batch of ``rows`` rows: over all mesh axes, or over the first of them whose sizes divide it."""
    return NamedSharding(mesh, partition_spec(("batch",), (rows,), mesh, "replicated"))


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Indices, ascending, of the rows of a batch of ``rows`` on this host's devices, which this host must provide."""
    slices = batch_sharding(mesh, rows).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in slices]))


def put_rows(
    mesh: Mesh, batch: Mapping[str, np.ndarray | jax.Array], own: np.ndarray, rows: int
) -> dict[str, jax.Array]:
    """This host's rows ``own`` (see `local_rows`) of a batch of ``rows`` -> global arrays [rows, ...].

    The global arrays do not depend on the number of hosts.
    """
    sharding = batch_sharding(mesh, rows)
    if sharding.is_fully_addressable:  # devices of one host only: a single call takes half the time
        return jax.device_put(dict(batch), sharding)

    def place(x: np.ndarray | jax.Array) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        have = np.asarray(x)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            start, stop, _ = (index or (slice(None),))[0].indices(rows)
            return have[slice(*np.searchsorted(own, (start, stop)))]

        return jax.make_array_from_callback((rows, *have.shape[1:]), sharding, part)

    return {name: place(x) for name, x in batch.items()}


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray | jax.Array]) -> dict[str, jax.Array]:
    """A batch that every host has in full -> global arrays, sharded by `batch_sharding`."""
    rows = next(iter(batch.values())).shape[0]
    return put_rows(mesh, batch, np.arange(rows), rows)


@cache
def _gather(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


@cache
def _gather_entry(mesh: Mesh) -> Callable[[jax.Array, int], jax.Array]:
    """One entry of the first axis, in full on every device; the others stay in their shards."""
    return jax.jit(
        lambda x, n: jax.lax.dynamic_index_in_dim(x, n, keepdims=False),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def fetch(x: jax.Array) -> np.ndarray:
    """Copy a global array in full to every host. All hosts must call it."""
    if not (x.is_fully_addressable or x.is_fully_replicated):
        assert isinstance(x.sharding, NamedSharding)
        x = _gather(x.sharding.mesh)(x)
    return np.asarray(x)


def fetch_entry(x: jax.Array, n: int) -> np.ndarray:
    """Copy entry ``n`` of a global array's first axis to every host, without the others. All hosts must call it."""
    if x.is_fully_addressable:
        return np.asarray(x[n])
    assert isinstance(x.sharding, NamedSharding)
    return np.asarray(_gather_entry(x.sharding.mesh)(x, n))


def pieces(x: jax.Array) -> Iterator[np.ndarray]:
    """A global array on every host, in the order of its elements: as one piece, or for a stack sharded over several
    hosts matrix by matrix, because no device may have room for all of it. All hosts must take all pieces."""
    if x.ndim < 3 or x.is_fully_addressable:
        yield fetch(x)
    else:
        yield from (fetch_entry(x, n) for n in range(x.shape[0]))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Replicate the arrays of a tree that are not on the mesh yet (optimizer counters, keys)."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(x: Any) -> jax.Array:
        return x if isinstance(getattr(x, "sharding", None), NamedSharding) else jax.device_put(x, replicated)

    return jax.tree.map(place, tree)
