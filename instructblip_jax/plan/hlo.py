"""Parser of a compiled program's text: its computations, the results of each instruction, and its number of runs.

XLA's own cost analysis counts the body of a loop once; here a loop counts once per iteration.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_WIDTHS = {"pred": 8, "token": 0, "opaque": 0}  # bits of the types whose names do not contain them
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%[^\s,)}]+)"
)
_ELEMENTWISE = {"all-reduce", "reduce", "reduce-scatter", "scatter", "sort", "map", "reduce-window"}
"""Opcodes whose computations combine two elements, and are not separate programs."""
_FAST_MEMORY = re.compile(r"S\([1-9]")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array type. ``near``: the array is in the chip's fast memory, not in HBM."""

    dtype: str
    shape: tuple[int, ...]
    near: bool = False

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> float:
        """Bytes, packed."""
        bits = _WIDTHS.get(self.dtype) if self.dtype in _WIDTHS else int((re.findall(r"\d+", self.dtype) or ["8"])[0])
        return self.size * (bits or 0) / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """``results``: its arrays, more than one for a tuple. ``text``: everything after its operands."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    text: str
    root: bool

    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        return [name for found in _CALLED.findall(self.text) for name in re.findall(r"%([^\s,}]+)", found)]

    def attribute(self, name: str) -> str | None:
        """The value of ``name=value`` in its text, or None."""
        match = re.search(rf"[ ,{{]{name}=(\"[^\"]*\"|\{{[^}}]*\}}|[^\s,]+)", self.text)
        return match[1].strip('"') if match else None

    @property
    def op_name(self) -> str:
        """Its scopes and operation in the traced function."""
        return self.attribute("op_name") or ""

    @property
    def nbytes(self) -> float:
        """Bytes of all results."""
        return sum(x.nbytes for x in self.results)


@dataclasses.dataclass
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction whose result it returns."""
        return next((x for x in self.instructions.values() if x.root), list(self.instructions.values())[-1])


def _closing(text: str, start: int) -> int:
    """The index where the bracket that opens at ``start`` closes."""
    depth = 0
    for n in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[n], 0)
        if depth == 0:
            return n
    return len(text)


def arrays(text: str) -> tuple[Array, ...]:
    """ "(f32[8], bf16[2,4]{1,0})" -> its arrays."""
    return tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), bool(_FAST_MEMORY.search(layout or "")))
        for dtype, dims, layout in _ARRAY.findall(text)
    )


def _instruction(line: str) -> Instruction | None:
    head, found, rest = line.strip().partition(" = ")
    if not found:
        return None
    root, name = head.startswith("ROOT "), head.removeprefix("ROOT ").lstrip("%")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.find("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    return Instruction(
        name, rest[:opening], arrays(kind), tuple(re.findall(r"%([^\s,)]+)", inside)), inside, rest[closing + 1 :], root
    )


class Program:
    """A compiled module's text (``compiled.as_text()``), parsed. Raises ValueError if it has no entry."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation | None = None
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                name = line.removeprefix("ENTRY ").split("(")[0].strip().lstrip("%")
                current = self.computations[name] = Computation(name, {})
                if line.startswith("ENTRY"):
                    self.entry = name
            elif current is not None and line.startswith("  ") and (found := _instruction(line)) is not None:
                current.instructions[found.name] = found
        if not self.entry:
            raise ValueError("the compiled program's text has no ENTRY computation")

    def trips(self, loop: Instruction) -> int:
        """Iterations of a while loop, as annotated by the compiler, or else the constant in its condition.

        1 if there is no such constant, because the loop's end depends on the data.
        """
        known = re.search(r"known_trip_count[^0-9]*(\d+)", loop.text)
        if known:
            return int(known[1])
        limits = set()
        condition = loop.attribute("condition")
        names = [condition.lstrip("%")] if condition else []
        while names:
            for x in self.computations[names.pop()].instructions.values():
                if x.opcode == "constant" and x.results[0].dtype in ("s32", "u32", "s64") and not x.results[0].shape:
                    limits.add(int(x.literal))
                names += x.called()
        return limits.pop() if len(limits) == 1 else 1

    def runs(self) -> Iterator[tuple[Computation, int, str, bool]]:
        """Yield every computation that runs: its number of runs, its caller's name in the traced function, and True
        inside a fusion. One with several callers is yielded once for each."""
        yield from self._runs(self.entry, 1, "", False)

    def _runs(self, name: str, times: int, origin: str, fused: bool) -> Iterator[tuple[Computation, int, str, bool]]:
        computation = self.computations[name]
        yield computation, times, origin, fused
        for x in computation.instructions.values():
            source = x.op_name or origin
            if x.opcode == "while":
                body = (x.attribute("body") or "").lstrip("%")
                yield from self._runs(body, times * self.trips(x), source, fused)
            elif x.opcode.removesuffix("-start") not in _ELEMENTWISE:
                for called in x.called():
                    yield from self._runs(called, times, source, fused or x.opcode == "fusion")
