"""The cost of a compiled program on one chip: FLOPs of its products and bytes over its main memory, loops included."""

import math
import re

from instructblip_jax.plan.flops import window_pairs
from instructblip_jax.plan.hlo import Computation, Instruction, Program

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
    "custom-call",
    "partition-id",
    "replica-id",
    "iota",
}
"""Opcodes that move no bytes by themselves."""


def executed_flops(program: Program) -> float:
    """FLOPs of the compiled program's products on one chip, in one run."""
    return sum(
        times * _flops(x, computation)
        for computation, times, _, _ in program.runs()
        for x in computation.instructions.values()
        if x.opcode in ("dot", "convolution")
    )


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
    return sum(
        times * _traffic(x, computation, program)
        for computation, times, _, fused in program.runs()
        if not fused
        for x in computation.instructions.values()
        if x.opcode not in SILENT and not x.opcode.endswith("-done")
    )


def _traffic(x: Instruction, computation: Computation, program: Program) -> float:
    operands = [computation.instructions[name] for name in x.operands if name in computation.instructions]
    if x.opcode == "fusion":
        return _fusion_traffic(x, operands, program)
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
    place as the update."""
    inside = program.computations[x.called()[0]]
    whole, updated, in_place = _far(x), 0.0, set()
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
