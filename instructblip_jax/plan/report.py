"""The plan of one setting on one slice: its fit, memory, communication and speed."""

import dataclasses
import math
from collections import defaultdict
from typing import Any

from instructblip_jax.decoding.options import Options
from instructblip_jax.plan import collectives, compiled, estimate, flops, gpus, hlo_cost, losses, roofline, tracing
from instructblip_jax.plan.chips import GIB, Topology
from instructblip_jax.plan.collectives import Collective
from instructblip_jax.plan.compiled import Compiled, Described, DoesNotFit, Lengths, Setting
from instructblip_jax.plan.estimate import Estimate
from instructblip_jax.plan.hlo import Program
from instructblip_jax.plan.hlo_cost import Op
from instructblip_jax.plan.losses import Loss
from instructblip_jax.plan.roofline import Place, Roofline
from instructblip_jax.sharding import REST
from instructblip_jax.systems.protocol import LANGUAGE
from instructblip_jax.systems.trainable import trains_language


@dataclasses.dataclass(frozen=True)
class Plan:
    """A train step on a slice.

    Attributes:
      peak: peak memory of a chip in bytes.
      bytes: the components of the peak by kind.
      flops: of one step over all chips, each operation once (`flops.of_batch`).
      executed: FLOPs of the compiled program on one chip, including rematerialisation.
      roofline, estimate, collectives, where: empty if the program does not fit according to the compiler; ``fits`` is
        then False.
      losses: breakdown of the likely time.
      seconds: compile time.
    """

    setting: Setting
    topology: Topology
    fits: bool
    peak: float
    bytes: dict[str, float]
    flops: float
    executed: float = 0.0
    roofline: Roofline | None = None
    collectives: tuple[Collective, ...] = ()
    where: tuple[Place, ...] = ()
    seconds: float = 0.0
    estimate: Estimate | None = None
    losses: tuple[Loss, ...] = ()

    @property
    def mfu(self) -> float:
        """An upper bound of the model FLOPs utilisation, from 0 to 1."""
        return self.mfu_at(self.roofline.bound) if self.roofline else 0.0

    def mfu_at(self, seconds: float) -> float:
        """The model FLOPs utilisation of a step that takes ``seconds``, as a fraction of the bfloat16 peak."""
        return self.flops / (seconds * self.topology.chip.bf16 * self.topology.devices)

    @property
    def samples_a_second(self) -> float:
        """An upper bound of the samples per second."""
        return self.setting.rows / self.roofline.bound if self.roofline else 0.0

    def sent(self) -> list[dict[str, Any]]:
        """Collectives summed by kind and reason, the slowest first; runs, bytes per chip and seconds per step."""
        sums: dict[tuple, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        for one in self.collectives:
            seconds = roofline.sending(one, self.topology, self.where)
            link = "network" if seconds[1] > seconds[0] else "links"
            entry = sums[one.kind, one.part, one.when, one.why, len(one.group), link]
            entry[0] += one.times
            entry[1] += one.moved
            entry[2] += max(seconds)
        names = ("kind", "part", "when", "why", "chips", "over", "runs", "bytes", "seconds")
        rows = [dict(zip(names, (*key, *values), strict=True)) for key, values in sums.items()]
        return sorted(rows, key=lambda row: -row["seconds"])

    def as_json(self) -> dict[str, Any]:
        """The plan for programs (`instructblip plan --json`)."""
        lengths = self.setting.lengths
        out: dict[str, Any] = {
            "topology": self.topology.name,
            "mesh": dict(zip(("data", "fsdp", "tensor"), self.setting.mesh, strict=True)),
            "layout": layouts(self.setting),
            "remat": self.setting.remat,
            "int8": self.setting.int8,
            "batch_size": self.setting.rows,
            "lengths": _lengths(lengths),
            **({"groups": _groups(self.setting)} if self.setting.groups else {}),
            "fits": self.fits,
            "peak_bytes_per_chip": self.peak,
            "usable_bytes_per_chip": self.topology.chip.usable,
            "bytes": self.bytes,
            "model_flops_per_step": self.flops,
            "compile_seconds": round(self.seconds, 1),
        }
        if self.roofline is None:
            return out
        if self.estimate is not None:
            per_op, likely = self.estimate.per_op, self.estimate.likely
            out |= {
                "step_seconds_per_op": per_op,
                "step_seconds_likely": likely,
                "mfu_per_op": self.mfu_at(per_op),
                "mfu_likely": self.mfu_at(likely),
                "samples_per_second_likely": self.setting.rows / likely,
                "losses": [dataclasses.asdict(one) for one in self.losses],
            }
        return out | {
            "executed_flops_per_chip": self.executed,
            "collectives": self.sent(),
            "roofline_seconds": dataclasses.asdict(self.roofline),
            "limited_by": self.roofline.limit,
            "step_seconds_bound": self.roofline.bound,
            "step_seconds_without_overlap": self.roofline.sum,
            "mfu_bound": self.mfu,
            "samples_per_second_bound": self.samples_a_second,
        }


def _lengths(lengths: Lengths) -> dict[str, int]:
    return {"instruction": lengths.prompt, "response": lengths.response, "frames": len(lengths.kinds)}


def _groups(setting: Setting) -> dict[str, Any]:
    """The batches of a step, by the names of their groups."""
    return {
        one.name: {"batch_size": one.rows, "lengths": _lengths(one.lengths), "weight": one.weight}
        for one in setting.groups
    }


def layouts(setting: Setting) -> dict[str, str]:
    """Part of the system -> its layout, starting with that of parameters outside of parts."""
    return {part: setting.layout.of(part) for part in (REST, *setting.model.parts)}


def plan(setting: Setting, topology: Topology, devices: list[Any]) -> Plan:
    """Compile a setting's train step for ``devices`` (of `compiled.devices`) and read the compiled program."""
    mesh = compiled.mesh_of(setting, devices)
    setting = dataclasses.replace(setting, mesh=tuple(mesh.shape.values()))
    described = compiled.describe(setting, mesh)
    given = described.bytes()
    shapes = {name: x.shape for name, x in described.batch.items()}
    model_flops = flops.of_batch(tracing.describe(setting.model, trainable=setting.trainable), shapes)
    try:
        program = compiled.compiled(compiled.train_step(described), mesh, _options(topology))
    except DoesNotFit as error:
        arguments = sum(given.values())
        peak = error.needed + (0.0 if error.whole else arguments)
        return Plan(setting, topology, False, peak, given | {"temporaries": peak - arguments}, model_flops)
    read = _read(program, described, topology)
    alone = estimate.exposed(read.program, read.ops, read.found, topology, read.where, estimate.likely)
    return Plan(
        setting,
        topology,
        program.peak <= topology.chip.usable,
        program.peak,
        given | parts(program, sum(given.values())),
        model_flops,
        sum(op.times * op.flops for op in read.ops),
        read.roofline,
        read.found,
        read.where,
        program.seconds,
        read.estimate,
        tuple(losses.losses(read.program, read.ops, alone, read.found, topology.chip, setting.model.parts)),
    )


def _options(topology: Topology) -> dict[str, Any]:
    """The compiler's options for programs with large products."""
    return {} if topology.chip.tpu else gpus.TRAINING


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The analysis of a compiled program's text: its instructions, communication, bound and estimates."""

    program: Program
    ops: list[Op]
    found: tuple[Collective, ...]
    where: tuple[Place, ...]
    roofline: Roofline
    estimate: Estimate


def _read(program: Compiled, described: Described, topology: Topology) -> _Reading:
    parsed, mesh = Program(program.text), described.mesh
    ops, where = hlo_cost.ops(parsed), tuple(roofline.places(list(mesh.devices.flat)))
    found = tuple(collectives.find(parsed, mesh.size, described.weights(), described.setting.model.parts))
    compute = sum(op.times * estimate.products(op, topology.chip) for op in ops)
    made = estimate.estimate(parsed, ops, found, topology, where)
    return _Reading(parsed, ops, found, where, roofline.roofline(compute, made.bytes, found, topology, where), made)


def parts(program: Compiled, given: float) -> dict[str, float]:
    """Bytes of a program by kind, apart from its ``given`` bytes of arguments."""
    return {
        "padding": program.arguments - given,
        "temporaries": program.temporaries,
        "outputs": program.outputs - program.aliased,
        "code": program.code,
    }


@dataclasses.dataclass(frozen=True)
class Generation:
    """Generation for a batch: peak bytes per chip, and the times, of prefill and decoding. A decode step generates one
    token of every answer.

    Attributes:
      prefill, step: lower bounds of the time.
      prefill_likely, step_likely: their likely times in seconds.
      token_bytes: bytes that a chip moves over its memory in a decode step.
      weight_bytes: the minimum of these: the weights that a step reads completely.
    """

    rows: int
    beams: int
    fits: bool
    prefill_peak: float
    decoding_peak: float
    prefill: Roofline
    step: Roofline
    prefill_likely: float
    step_likely: float
    token_bytes: float
    weight_bytes: float

    @property
    def tokens_a_second(self) -> float:
        """An upper bound for all answers together, after prefill."""
        return self.rows / self.step.bound

    @property
    def excess(self) -> float:
        """Bytes that a decode step moves, as a multiple of the bytes of the weights that it reads."""
        return self.token_bytes / self.weight_bytes

    def as_json(self) -> dict[str, Any]:
        """The figures for programs (`instructblip plan --json`)."""
        return {
            "batch_size": self.rows,
            "num_beams": self.beams,
            "fits": self.fits,
            "reading_peak_bytes_per_chip": self.prefill_peak,
            "decoding_peak_bytes_per_chip": self.decoding_peak,
            "reading_seconds_bound": self.prefill.bound,
            "reading_seconds_likely": self.prefill_likely,
            "token_seconds_bound": self.step.bound,
            "token_seconds_likely": self.step_likely,
            "tokens_per_second_bound": self.tokens_a_second,
            "tokens_per_second_likely": self.rows / self.step_likely,
            "token_bytes_per_chip": self.token_bytes,
            "weight_bytes_per_chip": self.weight_bytes,
            "limited_by": self.step.limit,
        }


def generation(
    setting: Setting, topology: Topology, devices: list[Any], *, beams: int = 1, max_new_tokens: int = 64
) -> Generation:
    """Compile prefill and decoding for ``setting.rows`` prompts. Raises DoesNotFit."""
    setting = dataclasses.replace(setting, scan_layers=topology.chip.tpu)  # as `Model.from_pretrained` chooses
    mesh = compiled.mesh_of(setting, devices)
    described: Described = compiled.describe(setting, mesh)
    options = Options.of(
        ends=setting.model.end_ids,
        pad=setting.model.pad_id,
        vocabulary=setting.model.vocab_size,
        num_beams=beams,
        max_new_tokens=max_new_tokens,
    )
    prefill = compiled.compiled(compiled.prefill(described), mesh, _options(topology))
    begun = compiled.compiled(compiled.begin(described, prefill.result, options), mesh)
    traced = compiled.decode(described, prefill.result, begun.result, options)
    decoded = compiled.compiled(traced, mesh)
    reading, step = (_read(program, described, topology) for program in (prefill, decoded))
    peaks = (prefill.peak, decoded.peak)
    return Generation(
        setting.rows,
        beams,
        max(peaks) <= topology.chip.usable,
        *peaks,
        reading.roofline,
        step.roofline,
        reading.estimate.likely,
        step.estimate.likely,
        step.estimate.bytes,
        compiled.held(compiled.read_whole(traced, described)),
    )


def remedies(plan: Plan) -> list[str]:
    """Remedies for a plan that does not fit, the most effective first, with their fraction of the memory; never
    empty."""
    setting, chips = plan.setting, plan.topology.devices
    missing = (plan.peak - plan.topology.chip.usable) / GIB
    found = []
    frozen, temporaries = plan.bytes["frozen"] / GIB, plan.bytes["temporaries"] / GIB
    language = [part for part, role in setting.model.parts.items() if role == LANGUAGE]
    rounds = not trains_language(setting.trainable, setting.model.trainable_sets, setting.model.parts)
    if language and rounds and not setting.int8 and frozen > missing / 2:
        found.append(f"--config.int8=True halves the language model (frozen weights take {frozen:.2f} GiB)")
    whole = [part for part in language if setting.layout.of(part) == "replicated"]
    if whole and chips > 1:
        ways = min(8, chips)
        tensor, fsdp = (" ".join(f"--config.layout.{part}={way}" for part in whole) for way in ("tensor", "fsdp"))
        found.append(
            f"{tensor} --config.mesh.tensor={ways} cuts the language model into {ways} "
            f"(or {fsdp} --config.mesh.fsdp={chips}, where a chip has many tokens)"
        )
    if setting.remat != "layer":
        found.append(f"--config.remat=layer keeps least for the backward pass (temporaries take {temporaries:.2f} GiB)")
    parts = _parts(setting, chips)
    if temporaries > missing / 2 and parts > 1:
        smaller = f"--config.batch_size={setting.rows // parts}"
        if setting.groups:
            smaller = "a smaller batch of each group"
        if not setting.model.in_batch:  # these batches cannot be accumulated
            smaller = f"--config.optim.accumulation={parts * setting.optim.accumulation}, or {smaller}"
        found.append(f"{smaller}, leaves 1/{parts} of most of the temporaries")
    found.append("a larger slice, or chips with more memory")
    return found


def _parts(setting: Setting, chips: int) -> int:
    """The smallest number of parts, two or more, into which the rows of each chip, of every group, can be divided; 1 if
    there is none."""
    data, fsdp, tensor = setting.mesh
    shards = data * fsdp if tensor == -1 else chips // tensor
    rows = math.gcd(*(one.rows for one in setting.groups)) if setting.groups else setting.rows
    rows //= shards * setting.optim.accumulation
    return next((parts for parts in range(2, rows + 1) if rows % parts == 0), 1)
