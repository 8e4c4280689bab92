"""One setting on one slice, planned: does it fit, what takes the memory, what is sent, how fast it can be."""

import dataclasses
from collections import defaultdict
from typing import Any

from instructblip_jax.decoding.options import Options
from instructblip_jax.plan import collectives, compiled, flops, hlo_cost, roofline
from instructblip_jax.plan.chips import GIB, Topology
from instructblip_jax.plan.collectives import Collective
from instructblip_jax.plan.compiled import Compiled, Described, DoesNotFit, Setting
from instructblip_jax.plan.hlo import Program
from instructblip_jax.plan.roofline import Place, Roofline


@dataclasses.dataclass(frozen=True)
class Plan:
    """A train step. ``bytes``: on one chip by kind, the peak's parts; ``flops``: of the recipe in one step, over all
    chips; ``executed``: of the compiled program on one chip, rematerialisation with it. Where the compiler found no way
    to hold the program, ``fits`` is False and all that follows ``bytes`` is empty."""

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

    @property
    def mfu(self) -> float:
        """The largest share of the chips' peak that the recipe's FLOPs can have."""
        if self.roofline is None:
            return 0.0
        return self.flops / (self.roofline.bound * self.topology.chip.bf16 * self.topology.devices)

    @property
    def samples_a_second(self) -> float:
        """At best."""
        return self.setting.rows / self.roofline.bound if self.roofline else 0.0

    def sent(self) -> list[dict[str, Any]]:
        """Collectives summed by kind and reason, the slowest first: runs, bytes a chip and seconds, all a step."""
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
        """What programs read."""
        out: dict[str, Any] = {
            "topology": self.topology.name,
            "mesh": dict(zip(("data", "fsdp", "tensor"), self.setting.mesh, strict=True)),
            "layout": dataclasses.asdict(self.setting.layout),
            "remat": self.setting.remat,
            "int8": self.setting.int8,
            "batch_size": self.setting.rows,
            "lengths": dataclasses.asdict(self.setting.lengths),
            "fits": self.fits,
            "peak_bytes_per_chip": self.peak,
            "usable_bytes_per_chip": self.topology.chip.usable,
            "bytes": self.bytes,
            "model_flops_per_step": self.flops,
            "compile_seconds": round(self.seconds, 1),
        }
        if self.roofline is None:
            return out
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


def plan(setting: Setting, topology: Topology, devices: list[Any]) -> Plan:
    """Compile a setting's train step for ``devices`` (of `compiled.devices`) and read what came out."""
    mesh = compiled.mesh_of(setting, devices)
    setting = dataclasses.replace(setting, mesh=tuple(mesh.shape.values()))
    described = compiled.describe(setting, mesh)
    given = described.bytes()
    model_flops = setting.rows * sum(flops.example(setting.model, setting.lengths, setting.trainable).values())
    try:
        program = compiled.compiled(compiled.train_step(described), mesh)
    except DoesNotFit as error:
        arguments = sum(given.values())
        peak = error.needed + (0.0 if error.whole else arguments)
        return Plan(setting, topology, False, peak, given | {"temporaries": peak - arguments}, model_flops)
    text = Program(program.text)
    where = tuple(roofline.places(list(mesh.devices.flat)))
    found = tuple(collectives.find(text, mesh.size, described.weights()))
    executed = hlo_cost.executed_flops(text)
    return Plan(
        setting,
        topology,
        program.peak <= topology.chip.usable,
        program.peak,
        given | parts(program, sum(given.values())),
        model_flops,
        executed,
        roofline.roofline(executed, hlo_cost.memory_traffic(text), found, topology, where),
        found,
        where,
        program.seconds,
    )


def parts(program: Compiled, given: float) -> dict[str, float]:
    """What a program holds besides the ``given`` bytes of its arguments."""
    return {
        "padding": program.arguments - given,
        "temporaries": program.temporaries,
        "outputs": program.outputs - program.aliased,
        "code": program.code,
    }


@dataclasses.dataclass(frozen=True)
class Generation:
    """Answering a batch: bytes a chip at most while reading and while decoding, seconds of each at best. A step makes a
    token of every answer."""

    rows: int
    beams: int
    fits: bool
    reading_peak: float
    decoding_peak: float
    reading: Roofline
    step: Roofline

    @property
    def tokens_a_second(self) -> float:
        """Of all answers together, at best, once the prompts are read."""
        return self.rows / self.step.bound

    def as_json(self) -> dict[str, Any]:
        """What programs read."""
        return {
            "batch_size": self.rows,
            "num_beams": self.beams,
            "fits": self.fits,
            "reading_peak_bytes_per_chip": self.reading_peak,
            "decoding_peak_bytes_per_chip": self.decoding_peak,
            "reading_seconds_bound": self.reading.bound,
            "token_seconds_bound": self.step.bound,
            "tokens_per_second_bound": self.tokens_a_second,
            "limited_by": self.step.limit,
        }


def generation(
    setting: Setting, topology: Topology, devices: list[Any], *, beams: int = 1, max_new_tokens: int = 64
) -> Generation:
    """Compile what answers ``setting.rows`` instructions. Raises DoesNotFit."""
    mesh = compiled.mesh_of(setting, devices)
    described: Described = compiled.describe(setting, mesh)
    text = setting.model.text
    options = Options.of(
        ends=text.eos_token_id,
        pad=text.pad_token_id,
        vocabulary=text.vocab_size,
        num_beams=beams,
        max_new_tokens=max_new_tokens,
    )
    read = compiled.compiled(compiled.reading(described), mesh)
    begun = compiled.compiled(compiled.beginning(described, read.result, options), mesh)
    decoded = compiled.compiled(compiled.stepping(described, read.result, begun.result, options), mesh)
    where = roofline.places(list(mesh.devices.flat))

    def speed(program: Compiled) -> Roofline:
        parsed = Program(program.text)
        found = collectives.find(parsed, mesh.size, described.weights())
        return roofline.roofline(
            hlo_cost.executed_flops(parsed), hlo_cost.memory_traffic(parsed), found, topology, where
        )

    peaks = (read.peak, decoded.peak)
    return Generation(setting.rows, beams, max(peaks) <= topology.chip.usable, *peaks, speed(read), speed(decoded))


def remedies(plan: Plan) -> list[str]:
    """Remedies for a plan that does not fit, the most effective first, with its share of the memory; never empty."""
    setting, chips = plan.setting, plan.topology.devices
    missing = (plan.peak - plan.topology.chip.usable) / GIB
    said = []
    frozen, temporaries = plan.bytes["frozen"] / GIB, plan.bytes["temporaries"] / GIB
    if not setting.int8 and frozen > missing / 2:
        said.append(f"--config.int8=True halves the language model (frozen weights take {frozen:.2f} GiB)")
    if setting.layout.llm == "replicated" and chips > 1:
        ways = min(8, chips)
        said.append(
            f"--config.layout.llm=tensor --config.mesh.tensor={ways} cuts the language model into {ways} "
            f"(or --config.layout.llm=fsdp --config.mesh.fsdp={chips}, where a chip has many tokens)"
        )
    if setting.remat != "layer":
        said.append(f"--config.remat=layer keeps least for the backward pass (temporaries take {temporaries:.2f} GiB)")
    parts = _parts(setting, chips)
    if temporaries > missing / 2 and parts > 1:
        said.append(
            f"--config.optim.accumulation={parts * setting.optim.accumulation}, or --config.batch_size="
            f"{setting.rows // parts}, leaves 1/{parts} of most of the temporaries"
        )
    said.append("a larger slice, or chips with more memory")
    return said


def _parts(setting: Setting, chips: int) -> int:
    """The fewest parts, two or more, into which the rows of each chip can be divided; 1 where it has a single row."""
    data, fsdp, tensor = setting.mesh
    shards = data * fsdp if tensor == -1 else chips // tensor
    rows = setting.rows // (shards * setting.optim.accumulation)
    return next((parts for parts in range(2, rows + 1) if rows % parts == 0), 1)
