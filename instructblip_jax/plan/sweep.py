"""The fastest setting of a run on a slice, and its largest batch: estimated for all settings, compiled for the best."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.plan import collectives, compiled, flops, tracing
from instructblip_jax.plan.chips import Topology
from instructblip_jax.plan.compiled import Setting
from instructblip_jax.plan.report import Plan, plan
from instructblip_jax.sharding import REST, Layout, part_of
from instructblip_jax.systems.protocol import LANGUAGE, SystemConfig
from instructblip_jax.systems.trainable import trains_language

COMPILED = 4
"""Number of settings that are compiled."""
MARGIN = 0.9
"""A setting is not compiled if its estimate is more than this fraction of the memory."""
TRIED = ("none", "layer", "products")
"""The choices of `stack.REMAT`: keep everything, the least, and what frozen layers need."""
WORKING = 8
"""Number of simultaneous arrays of the size of the largest activation, in addition to those kept for the backward
pass."""


@dataclasses.dataclass(frozen=True)
class Guess:
    """A setting with estimates of its bytes per chip and seconds per step, without compiling, to rank settings."""

    setting: Setting
    memory: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Work:
    """A train step over the whole batch, from its trace.

    Attributes:
      flops: of all products, including rematerialisation.
      kept: bytes kept for the backward pass.
      residual: those of them that are inputs of the divided parts' layers.
      largest: bytes of the largest activation.
      weights: bytes of the divided parts' parameters.
      heads: the different numbers of attention heads in the divided parts.
    """

    flops: float
    kept: float
    residual: float
    largest: float
    weights: float
    heads: frozenset[int]


def divided(config: SystemConfig) -> tuple[str, ...]:
    """The parts whose layouts are tried: the language model, or all parts of a system that has none."""
    return tuple(part for part, role in config.parts.items() if role == LANGUAGE) or tuple(config.parts)


def work(setting: Setting) -> Work:
    """The work of a setting, which depends neither on the mesh nor on the layout."""
    model: Any = setting.model  # a frozen dataclass, hence hashable
    return _work(
        model,
        setting.rows,
        setting.lengths,
        setting.trainable,
        setting.dtype,
        setting.remat,
        setting.int8,
    )


@functools.cache
def _work(
    model: SystemConfig,
    rows: int,
    lengths: compiled.Lengths,
    trainable: str,
    dtype: str,
    remat: str,
    int8: Int8,
) -> Work:
    system = tracing.describe(model, trainable=trainable, dtype=dtype, remat=remat, int8=int8)
    batch = model.batch(rows, lengths.prompt, lengths.response, lengths.kinds)
    jaxpr, parts = tracing.gradients(system, batch), divided(model)
    forward = [(x, scope) for x, scope in _equations(jaxpr) if collectives.when_of(scope) == "forward"]
    inside = [x for x, scope in forward if collectives.part_of(scope, model.parts) in parts]
    made = (array.aval for x, _ in forward if not list(flops.parts(x)) for array in x.outvars)
    return Work(
        flops=flops.count(jaxpr, recomputed=True),
        kept=tracing.kept_bytes(system, batch),
        residual=sum(_carried(x) for x in inside if x.primitive.name == "scan"),
        largest=max(tracing.nbytes(x) for x in made),
        weights=sum(
            tracing.nbytes(x)
            for path, x in (system.train | system.frozen).items()
            if part_of(path, model.parts) in parts
        ),
        heads=frozenset(heads for x in inside for heads in _heads(x, rows)),
    )


def _equations(jaxpr: Any, scope: str = "") -> Iterator[tuple[Any, str]]:
    """All equations, including those inside others, each with its named scopes."""
    for equation in jaxpr.eqns:
        here = f"{scope}/{equation.source_info.name_stack}"
        yield equation, here
        for part in flops.parts(equation):
            yield from _equations(part, here)


def _carried(scan: Any) -> float:
    """Bytes of a scan's carry over all of its steps; for a stack of layers, their inputs."""
    start = scan.params["num_consts"]
    carry = scan.invars[start : start + scan.params["num_carry"]]
    return scan.params["length"] * sum(tracing.nbytes(x.aval) for x in carry)


def _heads(equation: Any, rows: int) -> list[int]:
    """The number of heads in an attention product, which multiplies one pair of matrices per row and head."""
    if equation.primitive.name != "dot_general":
        return []
    _, (batch, _) = equation.params["dimension_numbers"]
    sizes = [equation.invars[0].aval.shape[n] for n in batch]
    return [size for size in sizes if size != rows] if len(sizes) > 1 else []


def ways(setting: Setting, topology: Topology) -> list[Setting]:
    """All useful meshes, layouts, int8 and rematerialisation settings for this batch on this slice."""
    chips, slices, parts = topology.devices, topology.slices, divided(setting.model)
    placed: list[tuple[tuple[int, int, int], str]] = [((chips, 1, 1), "replicated")]
    if chips > 1:
        placed.append(((slices, chips // slices, 1), "fsdp"))
    for tensor in (2, 4, 8):
        if chips % (tensor * slices) == 0 and not any(heads % tensor for heads in work(setting).heads):
            placed += [((chips // tensor, 1, tensor), name) for name in ("tensor", "sequence")]
            placed.append(((slices, chips // tensor // slices, tensor), "sharded"))
    found = []
    for (mesh, name), int8, remat in itertools.product(placed, _int8(setting, parts), TRIED):
        others = "fsdp" if name in ("fsdp", "sharded") else "replicated"
        names = {REST: "replicated"} | {part: name if part in parts else others for part in setting.model.parts}
        found.append(dataclasses.replace(setting, mesh=mesh, layout=Layout(**names), int8=int8, remat=remat))
    return found


def _int8(setting: Setting, parts: Collection[str]) -> tuple[Int8, ...]:
    """The choices of int8 for a frozen language model: its weights, unless the setting rounds more."""
    model = setting.model
    language = [part for part in parts if model.parts[part] == LANGUAGE]
    rounds = language and not trains_language(setting.trainable, model.trainable_sets, model.parts)
    return (False, setting.int8 or True) if rounds else (False,)


def guess(setting: Setting, topology: Topology, given: float) -> Guess:
    """``given``: bytes per chip of the step's arguments."""
    chip, chips, done = topology.chip, topology.devices, work(setting)
    layout = setting.layout.of(next(iter(divided(setting.model)), REST))
    tensor = setting.mesh[2] if layout in ("tensor", "sequence", "sharded") else 1

    # The chips of a tensor group work on the same rows, and each keeps the complete inputs of the layers.
    copies = 1 if layout == "sequence" else tensor
    kept = (done.kept + (copies - 1) * done.residual) / chips
    memory = given + kept + WORKING * done.largest / chips + 0.5 * 2**30

    # Communication: partial sums twice per layer and pass, each by reducing and gathering; or the weights in each pass.
    passes = 3 if setting.remat == "layer" else 2
    sent = 2 * passes * 2 * (tensor - 1) * done.residual / chips
    if layout in ("fsdp", "sharded"):
        sent += passes * done.weights / tensor
    compute = done.flops / chips / chip.bf16
    seconds = max(compute, sent / (chip.link * 2), passes * done.weights / tensor / chip.bandwidth)
    return Guess(setting, memory, seconds)


def best_first(setting: Setting, topology: Topology, devices: list[Any]) -> list[Guess]:
    """Estimates of all `ways` that may fit, the fastest first; among equals, the one with the least memory first."""
    given: dict[tuple, float] = {}
    guesses = []
    for way in ways(setting, topology):
        key = (way.mesh, way.layout, way.int8)
        if key not in given:
            try:
                mesh = compiled.mesh_of(way, devices)
            except NotImplementedError:  # jax cannot map these sizes to the slice's torus
                continue
            given[key] = sum(compiled.describe(way, mesh).bytes().values())
        guesses.append(guess(way, topology, given[key]))
    fitting = [g for g in guesses if g.memory < MARGIN * topology.chip.usable]
    # Two digits: the estimates are no more precise.
    return sorted(fitting, key=lambda g: (float(f"{g.seconds:.2g}"), g.memory))


def fastest(
    setting: Setting, topology: Topology, devices: list[Any], progress: Callable[[list], Any] = iter
) -> list[Plan]:
    """The `COMPILED` best settings for the batch, compiled; the likely fastest first, those that do not fit last."""
    chosen = best_first(setting, topology, devices)[:COMPILED]
    plans = [plan(one.setting, topology, devices) for one in progress(chosen)]

    def order(made: Plan) -> tuple[bool, float]:
        return not made.fits, made.estimate.likely if made.estimate else math.inf

    return sorted(plans, key=order)


def largest_batch(best: Plan, devices: list[Any]) -> Plan:
    """The largest batch that fits a plan's layout, a multiple of the chips. Memory per row is estimated from a batch of
    twice the rows, and the result is compiled."""
    step, room = best.topology.devices, best.topology.chip.usable
    rows = best.setting.rows

    def planned(rows: int) -> Plan:
        return plan(dataclasses.replace(best.setting, rows=rows), best.topology, devices)

    double = planned(2 * rows)
    a_row = (double.peak - best.peak) / rows
    found = double if double.fits else best
    wanted = int((room - best.peak) / max(a_row, 1.0) + rows) // step * step
    while wanted > found.setting.rows:
        made = planned(wanted)
        if made.fits:
            return made
        wanted = min(wanted - step, int(wanted * 0.95) // step * step)
    return found
