"""A lower bound of a compiled step's time: the maximum of computation, memory traffic and communication, overlapped."""

import dataclasses
from collections.abc import Iterable, Sequence

from instructblip_jax.plan.chips import Topology
from instructblip_jax.plan.collectives import Collective

Place = tuple[int, tuple[int, ...]]
"""(slice index, coordinates within the slice) of a device."""


def places(devices: Sequence) -> list[Place]:
    """The places of devices, in the given order (that of the mesh)."""
    return [(getattr(d, "slice_index", None) or 0, tuple(getattr(d, "coords", (d.id,)))) for d in devices]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one run on a chip, each as if the others took no time: ``compute``, ``memory``, ``links`` (inside a
    slice or machine) and ``network`` (between them)."""

    compute: float
    memory: float
    links: float
    network: float

    @property
    def bound(self) -> float:
        """Seconds of the fastest possible run."""
        return max(dataclasses.astuple(self))

    @property
    def sum(self) -> float:
        """Seconds of a run in which nothing overlaps."""
        return sum(dataclasses.astuple(self))

    @property
    def limit(self) -> str:
        """The field with the longest time."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def sending(one: Collective, topology: Topology, where: Sequence[Place]) -> tuple[float, float]:
    """Seconds per step of one collective over the links, and over the network.

    In a line or ring of chips, the chip with the fewest links is the limit: one in each dimension that the collective
    spans, two if the slice closes to a ring there. Between slices each chip sends its share of its slice's payload.
    """
    chip = topology.chip
    group = [where[n] for n in one.group]
    slices = len({place[0] for place in group}) if chip.tpu else -(-len(group) // 8)  # machines of eight
    inside = len(group) // slices
    network = 0.0
    if slices > 1:
        across = dataclasses.replace(one, group=tuple(range(slices)), payload=one.payload / inside)
        network = across.moved / chip.network
    if inside == 1:
        return 0.0, network
    local = dataclasses.replace(one, group=one.group[:inside]).moved
    return local / (chip.link * _ways(topology, [place[1] for place in group])), network


def _ways(topology: Topology, group: Sequence[tuple[int, ...]]) -> int:
    """Number of links that a chip can use at the same time in a collective over these places."""
    if not topology.chip.tpu:
        return 1  # to a switch
    ways = 0
    for n, side in enumerate(topology.shape):
        spanned = len({place[n] for place in group})
        if spanned > 1:
            ways += 2 if spanned == side and side % topology.chip.ring == 0 else 1
    return max(ways, 1)


def roofline(
    compute: float, traffic: float, found: Iterable[Collective], topology: Topology, where: Sequence[Place]
) -> Roofline:
    """The roofline of ``compute`` seconds of products at the chip's peaks, ``traffic`` bytes over its main memory, and
    collectives."""
    times = [sending(one, topology, where) for one in found]
    return Roofline(compute, traffic / topology.chip.bandwidth, sum(t[0] for t in times), sum(t[1] for t in times))
