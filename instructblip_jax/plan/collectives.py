"""The collectives of a compiled program: their bytes, chips and reasons."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from instructblip_jax import sharding
from instructblip_jax.plan.hlo import Array, Computation, Instruction, Program

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

JOINED = 2**20
"""Number of elements above which a one-dimensional array is not a vector, but several gradients that a GPU sends as
one."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      payload: bytes of the result of one run on a chip (the gathered array, the reduced one, ...).
      times: runs per step.
      group: the chips that take part, as positions in the mesh.
      when: the pass: forward, rematerialised, backward or update.
      part: of the system, "trained" for parameters outside of parts, "" if unknown.
      why: the reason, in words.
    """

    kind: str
    payload: float
    times: int
    group: tuple[int, ...]
    when: str
    part: str
    why: str
    name: str

    @property
    def moved(self) -> float:
        """Bytes that a chip receives over its links per step."""
        n = len(self.group)
        if self.kind == "collective-permute":
            return self.payload * self.times
        passes = {"all-reduce": 2.0, "reduce-scatter": float(n)}.get(self.kind, 1.0)
        return passes * self.payload * (n - 1) / n * self.times


def first_group(text: str, devices: int) -> tuple[int, ...]:
    """The first group of ``replica_groups=`` in any of its notations, or the first pair of a permute; all devices if
    there is neither."""
    if pair := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text):
        return tuple(sorted(int(n) for n in pair.groups()))
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return tuple(int(n) for n in listed[1].split(","))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, order = ([int(n) for n in part.split(",")] for part in iota.groups()[:2])
        ids = np.arange(math.prod(order)).reshape(order)
        if iota[3]:
            ids = ids.transpose([int(n) for n in iota[3].split(",")])
        return tuple(int(n) for n in ids.reshape(shape)[0])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        inside = re.findall(r"'([^']+)'", named[2])
        outside = tuple(0 if name not in inside else slice(None) for name in sizes)
        return tuple(int(n) for n in ids[outside].reshape(-1))
    return tuple(range(devices))


Weights = Mapping[str, tuple[tuple[int, ...], bool]]
"""Path -> (shape, True if it is trained)."""


def find(program: Program, devices: int, weights: Weights, parts: Collection[str]) -> list[Collective]:
    """All collectives of a compiled program.

    ``weights`` distinguish parameters from activations; ``parts`` are those of the system.
    """
    known = _by_shape(weights)
    trains = {sharding.part_of(path, parts) for path, (_, trained) in weights.items() if trained}
    frozen = set(parts) - trains
    found: dict[str, Collective] = {}
    for computation, times, origin, _ in program.runs():
        for x in computation.instructions.values():
            kind = x.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            # The pieces of a collective that overlaps other work share its channel, inside that work's loops as well.
            key = x.attribute("channel_id") or x.name
            if key in found and found[key].times <= times:
                continue
            one = _collective(kind, x, computation, times, origin, devices, parts, frozen, known)
            if len(one.group) > 1:
                found[key] = one
    return list(found.values())


def _collective(
    kind: str,
    x: Instruction,
    computation: Computation,
    times: int,
    origin: str,
    devices: int,
    parts: Collection[str],
    frozen: Collection[str],
    known: Mapping[tuple, str],
) -> Collective:
    group = first_group(x.text, devices)
    results: Sequence[Array] = x.results
    if x.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results, marks)
        arrays = [a for a in x.results if a.shape]
        results = arrays[len(arrays) // 2 :] if arrays else x.results
    if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
        kind, results = "reduce-scatter", computation.root.results
    name, payload = x.op_name or origin, sum(a.nbytes for a in results)
    when, part = when_of(name), part_of(name, parts)
    why = _why(kind, results, group, when, part in frozen, known)
    return Collective(kind, payload, times, group, when, part, why, x.name)


def when_of(op_name: str) -> str:
    """The pass of the step to which an instruction belongs, from its name in the traced function."""
    if "rematted_computation" in op_name:
        return "rematerialised"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name or "frozen[" in op_name else "update"


def part_of(op_name: str, parts: Collection[str]) -> str:
    """The part of the system: the innermost scope in an instruction's name, or that of the parameter."""
    names = "|".join(map(re.escape, (*parts, sharding.REST)))
    scopes = re.findall(rf"(?<![a-z_])({names})(?![a-z_])", op_name)
    if scopes:
        return scopes[-1]
    # Otherwise it may be an argument of the step: a trained parameter or its moments.
    return sharding.REST if re.match(r"state\['(train|opt)'\]", op_name) else ""


def _sides(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape sorted and without its ones, so that layouts and transpositions do not change it."""
    return tuple(sorted(n for n in shape if n > 1))


def _by_shape(weights: Weights) -> dict[tuple[int, ...], str]:
    """Sides of a matrix (of one layer, and of the whole stack) -> "trained" or "frozen"."""
    known: dict[tuple[int, ...], str] = {}
    for path, (shape, trained) in weights.items():
        stacked = "/layers/" in path and not path.split("/layers/")[1][0].isdigit()
        for part in {shape, shape[1:] if stacked else shape}:
            if len(_sides(part)) > 1:
                known.setdefault(_sides(part), "trained" if trained else "frozen")
    return known


def _why(
    kind: str, results: Sequence[Array], group: tuple[int, ...], when: str, frozen: bool, known: Mapping[tuple, str]
) -> str:
    """The reason of a collective. ``frozen``: it belongs to a frozen part."""
    whose = {known.get(_sides(a.shape)) for a in results}
    largest = max(results, key=lambda a: a.nbytes)
    if kind in ("all-reduce", "reduce-scatter"):
        if all(len(_sides(a.shape)) < 2 and a.size < JOINED for a in results):
            return "losses, norms, gradients of vectors"
        if frozen or (when in ("forward", "rematerialised") and "trained" not in whose):
            wrong = "frozen" in whose and when == "backward"
            return "GRADIENTS OF FROZEN WEIGHTS" if wrong else "partial sums of matrices that are cut"
        return "gradients of what trains"
    if kind == "all-gather":
        weight = known.get(_sides(largest.shape))
        if weight or largest.dtype == "s8":
            return f"{weight or 'frozen'} weights, gathered where they are used"
        return "activations, gathered for a product"
    if kind == "collective-permute":
        pieces = {
            known.get(_sides((*a.shape[:n], a.shape[n] * ways, *a.shape[n + 1 :])))
            for a in results
            for n in range(len(a.shape))
            for ways in {len(group)}
        }
        weight = next((p for p in pieces if p), None)
        return f"pieces of {weight} weights, passed round" if weight else "pieces of activations, passed round"
    return "rows moved from one layout to another"
