"""Accelerator chips, and slices of them by name: "v5e:4x4", "v5e:4x4*2" for two slices, "h200:8" for one machine.

Figures are those of the makers' public pages: cloud.google.com/tpu/docs for v4, v5e, v5p-training and v6e, and NVIDIA's
data sheets (dense). A TPU's links count nine tenths of the published bandwidth, the fraction that collectives reach.
"""

import dataclasses
import math
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip: operations per second, memory in bytes, bandwidths in bytes per second.

    Attributes:
      kinds: its names in ``jax.Device.device_kind``.
      bf16, int8: operations per second.
      usable: the memory available to programs, as the TPU compiler counts it.
      link: one link, one way. A TPU has a pair of links in each of ``torus`` dimensions, which close to a ring if a
        slice is ``ring`` chips long or a multiple of it; if ``torus`` is 0, a switch connects all chips of a machine.
      network: a chip's share of the bandwidth out of its slice or machine.
      clock: cycles per second, the unit of the TPU compiler's estimates; 0 for a GPU, whose compiler gives none.
    """

    name: str
    kinds: tuple[str, ...]
    bf16: float
    int8: float
    memory: float
    usable: float
    bandwidth: float
    link: float
    torus: int
    ring: int
    network: float
    clock: float = 0.0

    @property
    def tpu(self) -> bool:
        """True if its programs are compiled by the TPU compiler."""
        return self.torus > 0


def _gpu(name: str, kinds: tuple[str, ...], tera: float, gigabytes: float, bandwidth: float, link: float) -> Chip:
    """A GPU in a machine of eight, each with a 50 GB/s network card; int8 is twice as fast as bfloat16."""
    # XLA uses this fraction of a GPU's memory by default (XLA_PYTHON_CLIENT_MEM_FRACTION).
    usable = 0.75 * gigabytes * 1e9
    return Chip(
        name, kinds, tera * 1e12, 2 * tera * 1e12, gigabytes * 1e9, usable, bandwidth * 1e9, link * 1e9, 0, 0, 50e9
    )


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", ("TPU v4",), 275e12, 275e12, 32 * GIB, 30.75 * GIB, 1.2e12, 45e9, 3, 4, 6.25e9, 1.05e9),
        Chip(
            "v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 393e12, 16 * GIB, 15.75 * GIB, 819e9, 45e9, 2, 16, 3.125e9, 1.5e9
        ),
        Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 918e12, 95 * GIB, 95.74 * GIB, 2.765e12, 90e9, 3, 4, 6.25e9, 1.75e9),
        Chip(
            "v6e",
            ("TPU v6 lite", "TPU v6e"),
            918e12,
            1836e12,
            32 * GIB,
            31.25 * GIB,
            1.638e12,
            90e9,
            2,
            16,
            12.5e9,
            1.75e9,
        ),
        _gpu("a100-40", ("NVIDIA A100-SXM4-40GB",), 312, 40, 1555, 300),
        _gpu("a100-80", ("NVIDIA A100-SXM4-80GB",), 312, 80, 2039, 300),
        _gpu("h100", ("NVIDIA H100 80GB HBM3",), 989, 80, 3350, 450),
        _gpu("h200", ("NVIDIA H200",), 989, 141, 4800, 450),
    )
}
"""Name -> chip."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this name in jax, or None (a CPU, or a chip that is not in the table)."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)


@dataclasses.dataclass(frozen=True)
class Topology:
    """``slices`` equal slices of chips; ``shape`` holds the sides of one: (v5e, (4, 4), 1)."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """The name on the command line."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}" + (f"*{self.slices}" if self.slices > 1 else "")

    @property
    def devices(self) -> int:
        """Chips in all slices together."""
        return math.prod(self.shape) * self.slices


def parse(name: str) -> Topology:
    """Parse a name such as "v5e:4x4*2". Raises ValueError with the accepted forms."""
    match = re.fullmatch(r"([a-z0-9-]+):(\d+(?:x\d+)*)(?:\*(\d+))?", name)
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None:
        raise ValueError(
            f"topology {name!r}: write CHIP:SHAPE, such as v5e:4x4, v4:2x2x4, v5e:4x4*2 for two slices, or h200:8; "
            f"the chips are {', '.join(CHIPS)}"
        )
    shape, slices = tuple(map(int, match[2].split("x"))), int(match[3] or 1)
    sides = chip.torus or 1
    if len(shape) != sides or 0 in shape or slices < 1:
        example = "x".join(["2"] * sides) if chip.tpu else "8"
        raise ValueError(f"topology {name!r}: a {chip.name} slice has {sides} sides, as in {chip.name}:{example}")
    if chip.tpu and any(side > 2 and side % 4 for side in shape):
        raise ValueError(f"topology {name!r}: there is no such slice; its sides are 1, 2 or multiples of 4")
    return Topology(chip, shape, slices)
