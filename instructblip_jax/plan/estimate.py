"""Estimates of a compiled program's time beyond its bound: the sum over instructions, and the likely time of a run.

`roofline` overlaps everything, so no run is faster. But a chip runs one instruction at a time: `Estimate.per_op` sums
the bounds of all instructions, and communication that no work hides. `Estimate.likely` uses the TPU compiler's cycle
estimates, which are close for products and about twice too long for most other instructions. On a GPU it assumes that
products reach `GEMM` of the peak, and that everything else moves its bytes at the full bandwidth.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from instructblip_jax.plan.chips import Chip, Topology
from instructblip_jax.plan.collectives import KINDS, Collective
from instructblip_jax.plan.hlo import Instruction, Program
from instructblip_jax.plan.hlo_cost import Op
from instructblip_jax.plan.roofline import Place, sending

GEMM = 0.7
"""Fraction of the peak that large products reach on a GPU."""
OTHERS = 0.5
"""Fraction of the TPU compiler's cycles for instructions without a product, because it counts arrays in fast memory as
if they were read from HBM."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one run of a program on one chip.

    Attributes:
      per_op: the sum of each instruction's own bound, and of ``sending``.
      likely: the realistic estimate, including its own part of communication.
      sending: communication that no work between its start and its end hides (in ``per_op``).
      bytes: over the main memory.
    """

    per_op: float
    likely: float
    sending: float
    bytes: float


def least(op: Op, chip: Chip) -> float:
    """Seconds of one run of an instruction at the chip's peaks."""
    return max(products(op, chip), op.bytes / chip.bandwidth)


def products(op: Op, chip: Chip) -> float:
    """Seconds of one run of an instruction's products only, at the peaks of their types."""
    return (op.flops - op.narrow) / chip.bf16 + op.narrow / chip.int8


def likely(op: Op, chip: Chip) -> float:
    """Likely seconds of one run of an instruction."""
    memory = op.bytes / chip.bandwidth
    if not chip.tpu:
        return max(products(op, chip) / GEMM, memory)
    if op.instruction.opcode.endswith("-start"):  # a copy in parallel with other work
        return 0.0
    return max((1.0 if op.flops else OTHERS) * op.cycles / chip.clock, memory)


def sends(op: Op) -> bool:
    """True for a collective, whose time is determined by its links."""
    return op.instruction.opcode.removesuffix("-start") in KINDS


def estimate(
    program: Program, ops: Sequence[Op], found: Iterable[Collective], topology: Topology, where: Sequence[Place]
) -> Estimate:
    """The estimate of a program from its instructions (`hlo_cost.ops`) and collectives (`collectives.find`)."""
    chip, found = topology.chip, list(found)

    def total(seconds: Callable[[Op, Chip], float]) -> tuple[float, float]:
        alone = exposed(program, ops, found, topology, where, seconds)
        return sum(op.times * seconds(op, chip) for op in ops if not sends(op)), sum(alone.values())

    (bounds, sending_), (times, sending_likely) = total(least), total(likely)
    traffic = sum(op.times * op.bytes for op in ops)
    return Estimate(bounds + sending_, times + sending_likely, sending_, traffic)


def exposed(
    program: Program,
    ops: Sequence[Op],
    found: Iterable[Collective],
    topology: Topology,
    where: Sequence[Place],
    seconds: Callable[[Op, Chip], float],
) -> dict[str, float]:
    """Collective's instruction -> seconds per run of the program that no work hides.

    A collective is hidden by the instructions between its start and its end, if these take long enough (``seconds`` of
    one run) and hide no other one. A collective that is a single instruction is never hidden. The TPU compiler may
    divide one into pieces inside the fusions that hide it; the first is a separate fusion, "async-collective-start".
    """
    one_run = _one_run(program, ops, topology.chip, seconds)
    home = {name: part for part in program.computations.values() for name in part.instructions}
    fusions = {called: x.name for x in _all(program) if x.opcode == "fusion" for called in x.called()}
    out = {}
    for one in found:
        needed = sum(sending(one, topology, where)) / one.times
        start = fusions.get(home[one.name].name, one.name)
        for name in _between(home[start].instructions, start):
            used = min(needed, one_run.get(name, 0.0))
            needed -= used
            one_run[name] = one_run.get(name, 0.0) - used
        out[one.name] = needed * one.times
    return out


def _all(program: Program) -> Iterator[Instruction]:
    for computation in program.computations.values():
        yield from computation.instructions.values()


def _between(instructions: Mapping[str, Instruction], start: str) -> list[str]:
    """The instructions between the start of an asynchronous collective and its end; none for any other."""
    end = start.replace("async-collective-start", "async-collective-done")
    if instructions[start].opcode.endswith("-start") and '"is_sync":true' not in instructions[start].text:
        done = (x.name for x in instructions.values() if x.opcode.endswith("-done") and start in x.operands)
        end = next(done, start)
    names = list(instructions)
    return names[names.index(start) + 1 : names.index(end)] if end in names else []


def _one_run(program: Program, ops: Iterable[Op], chip: Chip, seconds: Callable[[Op, Chip], float]) -> dict[str, float]:
    """Instruction -> seconds of one run of it, for loops and calls with all that runs inside."""
    own: dict[str, float] = {op.instruction.name: 0.0 if sends(op) else seconds(op, chip) for op in ops}

    def inside(name: str) -> float:
        return sum(map(of, program.computations[name].instructions))

    home = {name: part for part in program.computations.values() for name in part.instructions}

    def of(name: str) -> float:
        if name not in own:
            x = home[name].instructions[name]
            if x.opcode == "while":
                own[name] = program.trips(x) * inside((x.attribute("body") or "").lstrip("%"))
            elif x.opcode in ("call", "conditional"):
                own[name] = max(map(inside, x.called()), default=0.0)
            else:
                own[name] = 0.0
        return own[name]

    for computation in {op.computation.name for op in ops} | {program.entry}:
        for name in program.computations[computation].instructions:
            of(name)
    return own
