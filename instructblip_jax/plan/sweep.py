"""The fastest way to lay a run out on a slice, and the largest batch it then holds: guessed for all ways, compiled for
the few best."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.layers.stack import REMAT
from instructblip_jax.plan import compiled, flops
from instructblip_jax.plan.chips import Topology
from instructblip_jax.plan.compiled import Setting
from instructblip_jax.plan.report import Plan, plan
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.trainable import enters_tower

COMPILED = 4
"""Ways that are compiled."""
MARGIN = 0.9
"""A way is not compiled when its guess takes more than this part of the memory."""


@dataclasses.dataclass(frozen=True)
class Guess:
    """A setting with what it may need: bytes a chip, and seconds a step. From sizes alone; good enough to choose by."""

    setting: Setting
    memory: float
    seconds: float


def ways(setting: Setting, topology: Topology) -> list[Setting]:
    """All meshes, layouts, int8 and rematerialisation that make sense for this batch on this slice."""
    chips, text = topology.devices, setting.model.text
    heads = text.num_heads if isinstance(text, T5Config) else text.num_attention_heads
    placed: list[tuple[tuple[int, int, int], str]] = [((chips, 1, 1), "replicated")]
    if chips > 1:
        placed.append(((topology.slices, chips // topology.slices, 1), "fsdp"))
    for tensor in (2, 4, 8):
        if chips % (tensor * topology.slices) == 0 and heads % tensor == 0:
            placed += [((chips // tensor, 1, tensor), name) for name in ("tensor", "sequence")]
            placed.append(((topology.slices, chips // tensor // topology.slices, tensor), "sharded"))
    out = []
    for (mesh, llm), int8, remat in itertools.product(placed, (False, True), REMAT):
        vit = "fsdp" if llm in ("fsdp", "sharded") else "replicated"
        layout = Layout("replicated", vit, llm)
        out.append(dataclasses.replace(setting, mesh=mesh, layout=layout, int8=int8, remat=remat))
    return out


def guess(setting: Setting, topology: Topology, given: float) -> Guess:
    """``given``: bytes a chip of the step's arguments."""
    chip, chips, layout = topology.chip, topology.devices, setting.layout.llm
    tensor = setting.mesh[2] if layout in ("tensor", "sequence", "sharded") else 1
    part, tower = flops.example(setting.model, setting.lengths, setting.trainable), enters_tower(setting.trainable)
    rows = setting.rows / chips  # a chip's share of the work
    again = {"none": 0.0, "dots": 0.05, "layer": 0.5}[setting.remat]
    compute = rows * (sum(part.values()) + again * (part["llm"] + (2 / 3 * part["vit"] if tower else 0))) / chip.bf16

    # What the language model keeps for its backward pass, a token and layer: its input, its products, or everything.
    stacks, width, inner = _stacks(setting)
    kept = {"layer": width, "dots": 6 * width + 2 * inner, "none": 14 * width + 6 * inner}[setting.remat]
    cut = tensor if layout == "sequence" or setting.remat != "layer" else 1
    positions = sum(layers * length for layers, length in stacks) * rows * tensor
    vision = setting.model.vision
    image = setting.lengths.frames * (vision.grid**2 + 1) * vision.hidden_size
    memory = given + 2 * positions * kept / cut + rows * 40 * image * 2 + 0.5 * 2**30
    if tower:  # keeps as much of its layers; the inner width is 4.4 times its own
        memory += rows * 2 * image * vision.num_hidden_layers * {"layer": 1, "dots": 10, "none": 32}[setting.remat]

    # Sent: partial sums four times a layer (six when done again), or the weights in each pass.
    passes = 3 if setting.remat == "layer" else 2
    weights = sum(layers for layers, _ in stacks) * (4 * width * width + 3 * width * inner)
    sent = 0.0
    if layout in ("fsdp", "sharded"):
        sent += passes * weights * (1 if setting.int8 else 2) / tensor
    if tensor > 1:
        sent += 2 * passes * 2 * (tensor - 1) / tensor * positions * width * 2
    seconds = max(
        compute, sent / (chip.link * 2), passes * weights / tensor * (1 if setting.int8 else 2) / chip.bandwidth
    )
    return Guess(setting, memory, seconds)


def _stacks(setting: Setting) -> tuple[list[tuple[int, int]], int, int]:
    """Of the language model: (layers, length) of each stack, width, inner width."""
    text, lengths = setting.model.text, setting.lengths
    prompt = setting.model.num_query_tokens * lengths.frames + lengths.instruction
    if isinstance(text, T5Config):
        return [(text.num_layers, prompt), (text.num_decoder_layers, lengths.response)], text.d_model, text.d_ff
    return [(text.num_hidden_layers, prompt + lengths.response)], text.width, flops.mlp_width(text)


def best_first(setting: Setting, topology: Topology, devices: list[Any]) -> list[Guess]:
    """Guesses of all `ways` that may fit, the fastest first, of equals the one that needs least memory."""
    given: dict[tuple, float] = {}
    guesses = []
    for way in ways(setting, topology):
        key = (way.mesh, way.layout, way.int8)
        if key not in given:
            mesh = compiled.mesh_of(way, devices)
            given[key] = sum(compiled.describe(way, mesh).bytes().values())
        guesses.append(guess(way, topology, given[key]))
    fitting = [g for g in guesses if g.memory < MARGIN * topology.chip.usable]
    # Three digits: what differs by less is not known.
    return sorted(fitting, key=lambda g: (float(f"{g.seconds:.2g}"), g.memory))


def fastest(
    setting: Setting, topology: Topology, devices: list[Any], progress: Callable[[list], Any] = iter
) -> list[Plan]:
    """The `COMPILED` best ways for the setting's batch, compiled, the fastest first; what does not fit comes last."""
    chosen = best_first(setting, topology, devices)[:COMPILED]
    plans = [plan(one.setting, topology, devices) for one in progress(chosen)]

    def order(made: Plan) -> tuple:
        # Of equal bounds (two digits: less is not known) the one that has least to hide behind another.
        roof = made.roofline
        return (not made.fits, *((float(f"{roof.bound:.2g}"), roof.sum) if roof else (math.inf, math.inf)))

    return sorted(plans, key=order)


def largest_batch(best: Plan, devices: list[Any]) -> Plan:
    """The largest batch that fits a plan's layout, a multiple of the chips: what grows with the rows is learned from
    twice as many, and the answer is compiled."""
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
