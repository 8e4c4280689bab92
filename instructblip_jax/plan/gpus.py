"""GPU machines that need not exist: descriptions of devices for XLA's GPU compiler."""

import dataclasses
import importlib.util
from typing import Any

from jax.experimental import topologies

from instructblip_jax.plan.chips import Topology

MACHINE = 8
"""GPUs per machine; more of them are several machines."""
INSTALL = "pip install -e '.[plan-gpu]' (best in a virtual environment of its own)"
TRAINING: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
"""Compiler options for programs with large products, which use cuBLAS. Triton's need measurements on a device, and
cuBLAS is nearly always faster."""


@dataclasses.dataclass(frozen=True)
class Device:
    """The properties of a GPU.

    Attributes:
      capability: the major CUDA compute capability.
      cores: streaming multiprocessors.
      fpus: float32 units of each.
      clock: GHz.
      l2, memory: bytes.
      bandwidth: of the memory, bytes per second.
      shared: bytes of shared memory per core; a block may have one KiB less.
    """

    name: str
    capability: int
    cores: int
    fpus: int
    clock: float
    l2: int
    memory: int
    bandwidth: int
    shared: int


DEVICES = {
    "a100-40": Device(
        "NVIDIA A100-SXM4-40GB", 8, 108, 64, 1.41, 41943040, 42331013120, 1555200000000, 167936
    ),
    "a100-80": Device(
        "NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 41943040, 85100068864, 2039040000000, 167936
    ),
    "h100": Device(
        "NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 52428800, 84942979072, 3352320000000, 233472
    ),
    "h200": Device(
        "NVIDIA H200", 9, 132, 128, 1.98, 52428800, 151397597184, 4800000000000, 233472
    ),
}  # fmt: skip
"""Chip -> its device, from XLA's published descriptions."""


def target(device: Device) -> str:
    """XLA's GpuTargetConfigProto of a device, as text."""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {device.shared - 1024}
  shared_memory_per_core: {device.shared}
  threads_per_core_limit: 2048
  core_count: {device.cores}
  fpus_per_core: {device.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {device.bandwidth}
  l2_cache_size: {device.l2}
  clock_rate_ghz: {device.clock}
  device_memory_size: {device.memory}
  cuda_compute_capability {{ major: {device.capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{device.name}"
"""


def devices(topology: Topology) -> list[Any]:
    """The GPUs of these machines, as a compilation target. Raises ValueError if there is no compiler, or no such
    machines."""
    plugins = importlib.util.find_spec("jax_plugins")
    if plugins is None or not any(importlib.util.find_spec(f"jax_plugins.xla_cuda{n}") for n in (12, 13)):
        raise ValueError(f"the GPU compiler is missing; it runs on any Linux machine, without a GPU: {INSTALL}")
    count = topology.devices
    if count > MACHINE and count % MACHINE:
        raise ValueError(f"topology {topology.name!r}: machines of {MACHINE} GPUs hold up to {MACHINE}, or a multiple")
    machines = max(1, count // MACHINE)
    try:
        return list(
            topologies.get_topology_desc(
                topology.chip.name,
                "cuda",
                target_config=target(DEVICES[topology.chip.name]),
                topology=f"1x{machines}x{count // machines}",
            ).devices
        )
    except Exception as error:  # jax passes on whatever the compiler's library raises
        raise ValueError(f"topology {topology.name!r}: {str(error).splitlines()[0]}") from error
