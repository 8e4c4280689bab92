"""Breakdown of a step's likely time: its products at the chip's peak, each once, and all losses."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from instructblip_jax.plan import collectives, estimate
from instructblip_jax.plan.chips import Chip
from instructblip_jax.plan.collectives import Collective
from instructblip_jax.plan.hlo import Instruction, Program
from instructblip_jax.plan.hlo_cost import Op
from instructblip_jax.sharding import REST

USEFUL = "products at the peak, each once"
REPEATED = "forward pass done again"
SLICED = "slices copied out of a stack"
MOVED = "copies, transposes, converts"
UPDATE = "optimizer and clipping"
STALLS = "products beyond the peak: padding, stalls, memory"
RANDOM = "random numbers"
SOFTMAX = "softmax"
KEPT = "results written into a stack"
OTHER = "norms, activations, other elementwise work"
SENT = "sending that nothing hides"
FORMS = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "bitcast-convert",
    "copy",
    "copy-start",
    "transpose",
    "reshape",
    "convert",
    "broadcast",
    "slice",
    "slice-start",
    "pad",
    "concatenate",
    "fusion",
}
"""Opcodes that only change an array's shape or location."""
INDICES = {"dynamic-slice", "gather", "compare", "select", "add", "clamp", "iota", "maximum", "minimum", "subtract"}
"""Opcodes of a slice with a computed index."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """Seconds of a step on one chip, with reason and part ("trained" for parameters outside of parts, "" if
    unknown)."""

    what: str
    part: str
    seconds: float


def losses(
    program: Program,
    ops: Sequence[Op],
    alone: Mapping[str, float],
    found: Iterable[Collective],
    chip: Chip,
    parts: Collection[str],
) -> list[Loss]:
    """A step's complete likely time: `USEFUL` first, then the losses, largest first.

    ``alone``: unhidden seconds of each collective (`estimate.exposed`).
    """
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for op in ops:
        if estimate.sends(op):
            continue
        seconds = op.times * estimate.likely(op, chip)
        when, part = collectives.when_of(op.scope), collectives.part_of(op.scope, parts)
        if when == "rematerialised":
            sums[REPEATED, part] += seconds
        elif op.flops:
            useful = min(seconds, op.times * estimate.products(op, chip))
            sums[USEFUL, ""] += useful
            sums[STALLS, part] += seconds - useful
        elif when == "update" and part in ("", REST):
            sums[UPDATE, ""] += seconds
        else:
            sums[_kind(op.instruction, program), part] += seconds
    for one in found:
        sums[SENT, one.part] += alone[one.name]
    rows = [Loss(what, part, seconds) for (what, part), seconds in sums.items() if seconds]
    return sorted(rows, key=lambda row: (row.what != USEFUL, -row.seconds))


def _kind(x: Instruction, program: Program) -> str:
    """The kind of work of an instruction without a product."""
    inside = list(_inside(x, program))
    codes, scopes = {y.opcode for y in inside}, {y.op_name.rpartition("jit(step)")[2] for y in inside}
    if any(name in scope for scope in scopes for name in ("_uniform", "_bernoulli", "random_bits", "_normal")):
        return RANDOM
    if any(scope.endswith(("/exp", "/reduce_max")) and "silu" not in scope for scope in scopes):
        return SOFTMAX
    if "dynamic-update-slice" in codes:
        return KEPT
    if codes & {"dynamic-slice", "gather"} and codes <= FORMS | INDICES:
        return SLICED
    return MOVED if codes <= FORMS else OTHER


def _inside(x: Instruction, program: Program) -> Iterable[Instruction]:
    """An instruction, or all of the computations that a fusion runs."""
    if x.opcode != "fusion":
        yield x
        return
    for name in x.called():
        for y in program.computations[name].instructions.values():
            yield from _inside(y, program)
