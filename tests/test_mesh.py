"""Where the rows of a batch lie, and meshes over several TPU slices."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from instructblip_jax.mesh import batch_sharding, fetch, local_rows, make_mesh, put_batch, put_rows


@pytest.mark.parametrize(("rows", "ways"), [(16, 8), (8, 8), (12, 4), (6, 2), (3, 1)])
def test_rows_are_split_over_the_axes_that_divide_them(rows, ways):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    whole = put_batch(mesh, {"x": x})["x"]
    np.testing.assert_array_equal(np.asarray(whole), x)
    assert {shard.data.shape for shard in whole.addressable_shards} == {(rows // ways, 3)}
    assert local_rows(mesh, rows).tolist() == list(range(rows))


def test_a_host_puts_the_rows_that_its_devices_hold(monkeypatch):
    """As the second of two hosts would, which has four of the eight devices and rows of its own only."""
    mesh = make_mesh(data=4, fsdp=2)
    sharding = batch_sharding(mesh, 16)
    theirs = {device: index for device, index in sharding.devices_indices_map((16,)).items() if device.id >= 4}
    monkeypatch.setattr(NamedSharding, "addressable_devices_indices_map", lambda self, shape: theirs)
    own = local_rows(mesh, 16)
    assert own.tolist() == list(range(8, 16))
    monkeypatch.setattr(NamedSharding, "is_fully_addressable", False)
    asked = {}

    def make(shape, sharding, part):
        asked.update({device.id: part(index) for device, index in theirs.items()})
        return shape

    monkeypatch.setattr(jax, "make_array_from_callback", make)
    rows = own[:, None] * np.ones(3, int)
    assert put_rows(mesh, {"x": rows}, own, 16)["x"] == (16, 3)
    assert {n: part[:, 0].tolist() for n, part in asked.items()} == {n: [2 * n, 2 * n + 1] for n in range(4, 8)}


def test_what_lies_there_already_is_not_moved():
    mesh = make_mesh()
    batch = put_batch(mesh, {"x": np.ones((8, 2))})
    assert put_batch(mesh, batch)["x"] is batch["x"]
    elsewhere = jax.device_put(np.ones((8, 2)), NamedSharding(mesh, PartitionSpec()))
    assert put_batch(mesh, {"x": elsewhere})["x"].sharding.is_equivalent_to(batch["x"].sharding, 2)
    np.testing.assert_array_equal(fetch(batch["x"]), np.ones((8, 2)))


def test_slices_lie_along_data():
    pytest.importorskip("libtpu", reason="describes TPUs without having them")
    from jax.experimental import topologies

    devices = list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", num_slices=2).devices)
    mesh = make_mesh(data=-1, fsdp=2, devices=devices[::-1])
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ValueError, match=r"mesh\.data is 1; over 2 TPU slices it must be a multiple of 2"):
        make_mesh(data=1, fsdp=-1, devices=devices)
