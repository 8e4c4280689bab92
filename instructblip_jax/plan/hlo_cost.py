"""The cost of a compiled program on one chip: FLOPs of its products and bytes over its main memory, loops included."""

import dataclasses
import math
import re

from instructblip_jax.plan.flops import window_pairs
from instructblip_jax.plan.hlo import Array, Computation, Instruction, Program

SILENT = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
}
"""Opcodes that do not move bytes themselves."""
LIBRARY = re.compile(r"__(cublas|cudnn|triton)")
"""Targets of the custom calls that compute; the others are annotations of the compiler."""
NARROW = {"s8", "u8"}
"""Types whose products run at the chip's int8 peak, if both operands have one."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One instruction that runs separately: a fusion, a product, a copy, a collective.

    Attributes:
      computation: the one that contains it.
      times: runs per run of the program; all other figures are for a single run.
      scope: its name in the traced function, or that of its caller.
      flops: of its products.
      narrow: the part of these in products of int8 matrices.
      bytes: over the main memory.
      cycles: the TPU compiler's own estimate, 0 if it has none.
    """

    instruction: Instruction
    computation: Computation
    times: int
    scope: str
    flops: float
    narrow: float
    bytes: float
    cycles: float


def ops(program: Program) -> list[Op]:
    """All instructions of a compiled program with a cost, in scheduled order."""
    known: dict[str, list[tuple[Instruction, float, float, float, float]]] = {}
    found = []
    for computation, times, origin, fused in program.runs():
        if fused:
            continue
        if computation.name not in known:
            known[computation.name] = [
                (x, *_products(x, computation, program), _bytes(x, computation, program), _cycles(x))
                for x in computation.instructions.values()
                if x.opcode not in SILENT and not x.opcode.endswith("-done")
            ]
        found += [Op(x, computation, times, x.op_name or origin, *costs) for x, *costs in known[computation.name]]
    return found


def executed_flops(program: Program) -> float:
    """FLOPs of the compiled program's products on one chip, in one run."""
    return sum(op.times * op.flops for op in ops(program))


def _cycles(x: Instruction) -> float:
    estimate = re.search(r'"estimated_cycles":"(\d+)"', x.text)
    return float(estimate[1]) if estimate else 0.0


def _products(x: Instruction, computation: Computation, program: Program) -> tuple[float, float]:
    """FLOPs of an instruction's products, and of the products of int8 matrices among them."""
    if x.opcode == "fusion":
        inside = [program.computations[name] for name in x.called()]
        pairs = [_products(y, part, program) for part in inside for y in part.instructions.values()]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    if x.opcode in ("dot", "convolution"):
        total = _flops(x, computation)
    elif x.opcode == "custom-call" and LIBRARY.match(x.attribute("custom_call_target") or ""):
        total = _library_flops(x, computation)
    else:
        return 0.0, 0.0
    return total, total if {array.dtype for array in _operands(x, computation)[:2]} <= NARROW else 0.0


def _operands(x: Instruction, computation: Computation) -> list[Array]:
    """The first result of each operand."""
    return [computation.instructions[name].results[0] for name in x.operands if name in computation.instructions]


def _library_flops(x: Instruction, computation: Computation) -> float:
    """FLOPs of a call to a GPU library: a product, or complete attention."""
    left = _operands(x, computation)[0].shape
    if scores := re.search(r'"intermediate_tensor_shape":\s*\{.*?"dimensions":\s*\[([^\]]*)\]', x.text):
        # Two products in the forward pass; in the backward pass the scores again, and two gradients of each product.
        products = 5 if "Backward" in (x.attribute("custom_call_target") or "") else 2
        return 2.0 * products * math.prod(int(n) for n in re.findall(r"\d+", scores[1])) * left[-1]
    contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', x.text)
    if contracted is None:
        return 0.0
    return 2.0 * x.results[0].size * math.prod(left[int(n)] for n in re.findall(r"\d+", contracted[1]))


def _flops(x: Instruction, computation: Computation) -> float:
    shapes = [computation.instructions[name].results[0].shape for name in x.operands[:2]]
    if x.opcode == "dot":
        contracted = re.findall(r"\d+", x.attribute("lhs_contracting_dims") or "")
        return 2.0 * x.results[0].size * math.prod(shapes[0][int(n)] for n in contracted)
    # In TPU programs products are convolutions, and their batch dimensions are windows.
    left, right, out = re.split("_|->", x.attribute("dim_labels") or "bf_io->bf")
    window = x.attribute("window") or ""
    fields = {name: values.split("x") for name, values in re.findall(r"(\w+)=([^\s}]+)", window)}
    pairs = 1.0
    for n in range(len(out) - 2):
        label = str(n)
        pad = fields.get("pad", ["0_0"] * (n + 1))[n].split("_")
        stride, spread, step = (int(fields.get(f, ["1"] * (n + 1))[n]) for f in ("stride", "lhs_dilate", "rhs_dilate"))
        pairs *= window_pairs(
            shapes[0][left.index(label)],
            shapes[1][right.index(label)],
            x.results[0].shape[out.index(label)],
            stride=stride,
            pad=int(pad[0]),
            spread=spread,
            step=step,
        )
    groups = int(x.attribute("batch_group_count") or 1)
    rows = shapes[0][left.index("b")] / groups
    return 2.0 * rows * shapes[1][right.index("o")] * shapes[1][right.index("i")] * pairs


def memory_traffic(program: Program) -> float:
    """Bytes that one chip reads from and writes to its main memory in one run of the compiled program: operands and
    results of every fusion and of every instruction outside one, except arrays that stay in fast memory."""
    return sum(op.times * op.bytes for op in ops(program))


def _bytes(x: Instruction, computation: Computation, program: Program) -> float:
    """Bytes over the main memory in one run of an instruction outside all fusions."""
    operands = [computation.instructions[name] for name in x.operands if name in computation.instructions]
    if x.opcode == "fusion":
        return _fusion_traffic(x, operands, program)
    if x.opcode == "custom-call":
        if not LIBRARY.match(x.attribute("custom_call_target") or ""):
            return 0.0
        # A tuple's last result is the library's own workspace.
        results = x.results[:-1] if len(x.results) > 1 else x.results
        return sum(map(_far, operands)) + sum(a.nbytes for a in results)
    if x.opcode in ("dynamic-slice", "gather"):
        return 2 * _far(x)
    if x.opcode == "dynamic-update-slice":
        return 2 * _far(operands[1])
    if x.opcode == "slice-start":  # from one memory to the other
        return x.results[1].nbytes
    if x.opcode.endswith("-start"):
        return sum(a.nbytes for a in x.results if not a.near)  # its operands are among its results
    return sum(map(_far, operands)) + _far(x)


def _far(x: Instruction) -> float:
    return sum(a.nbytes for a in x.results if not a.near)


def _fusion_traffic(x: Instruction, operands: list[Instruction], program: Program) -> float:
    """Bytes of operands and results. An operand that is only sliced counts as its slices, a result that is updated in
    place as the update. The arrays of a collective in parallel with a product only pass through its fusion."""
    inside = program.computations[x.called()[0]]
    asynchronous = inside.name.startswith("async_collective_fusion")
    passing = {int(n): number for n, number in PASSING.findall(x.text)} if asynchronous else {}
    whole = sum(a.nbytes for n, a in enumerate(x.results) if not a.near and n not in passing)
    parameters = [y for y in inside.instructions.values() if y.opcode == "parameter"]
    updated, in_place = 0.0, {y.name for y in parameters if y.literal in passing.values()}
    for y in inside.instructions.values():
        base = y
        while base.opcode in ("dynamic-update-slice", "bitcast", "copy") and base.operands:
            base = inside.instructions[base.operands[0]]
        if y.opcode == "dynamic-update-slice" and base.opcode == "parameter":
            in_place.add(base.name)
            updated += y.nbytes - inside.instructions[y.operands[1]].nbytes
    read = 0.0
    for y in inside.instructions.values():
        if y.opcode == "parameter" and int(y.literal) < len(operands) and y.name not in in_place:
            operand = operands[int(y.literal)]
            share = _elements(inside, y.name, program) / max(1, y.results[0].size)
            read += _far(operand) * min(1.0, share)
    return read + max(0.0, whole - updated)


PASSING = re.compile(r"\{(\d+)\}: \((\d+), \{\}\)")
"""Results of a fusion that are its operands: (index of the result, index of the operand)."""
UNARY = {"bitcast", "copy", "convert", "reshape", "transpose"}


def _elements(inside: Computation, name: str, program: Program) -> float:
    """Elements of ``name`` that a fused computation reads: only the slices, if it slices them before or after other
    changes of form."""
    total = 0.0
    for y in inside.instructions.values():
        if name not in y.operands:
            continue
        if y.opcode in ("dynamic-slice", "gather", "slice"):
            total += y.results[0].size
        elif y.opcode in UNARY and not y.root:
            total += _elements(inside, y.name, program)
        elif y.opcode == "fusion":
            nested = program.computations[y.called()[0]]
            number = str(y.operands.index(name))
            parameter = next(z for z in nested.instructions.values() if z.opcode == "parameter" and z.literal == number)
            root = nested.root
            while root.opcode in UNARY:
                root = nested.instructions[root.operands[0]]
            same = root.name == parameter.name and not y.root
            total += _elements(inside, y.name, program) if same else _elements(nested, parameter.name, program)
        else:
            return inside.instructions[name].results[0].size
    return total
