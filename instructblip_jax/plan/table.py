"""A plan as text for people."""

import dataclasses
from collections.abc import Sequence

from instructblip_jax.plan.chips import GIB
from instructblip_jax.plan.compiled import Lengths
from instructblip_jax.plan.report import Generation, Plan, layouts, remedies

KINDS = {
    "frozen": "frozen parameters",
    "trained": "trained parameters, float32 (masters)",
    "memory": "momentum copies and queues",
    "optimizer": "optimizer state (moments)",
    "batch": "batch",
    "padding": "padding of arrays to the chip's tiles",
    "temporaries": "activations, gradients and other temporaries",
    "outputs": "outputs that take no argument's place",
    "code": "program",
}


def title(plan: Plan, name: str) -> str:
    """The planned setting, in two lines, plus one for each additional batch of a step."""
    setting = plan.setting
    mesh = ", ".join(f"{axis} {size}" for axis, size in zip(("data", "fsdp", "tensor"), setting.mesh, strict=True))
    layout = ", ".join(f"{part} {how}" for part, how in layouts(setting).items())
    int8 = f", {'int8' if setting.int8 is True else setting.int8} language model" if setting.int8 else ""
    batches = [f"batch {_batch(setting.rows, setting.lengths)}"]
    if setting.groups:
        batches = [f"batch of {one.name}: {_batch(one.rows, one.lengths)}" for one in setting.groups]
    return (
        f"{name} on {plan.topology.name} ({plan.topology.devices} chips): mesh {mesh}; layout {layout}; "
        f"remat {setting.remat}{int8}\n" + "\n".join(batches)
    )


def _batch(rows: int, lengths: Lengths) -> str:
    kinds = "" if len(lengths.kinds) == 1 else f", media: {' '.join(lengths.kinds) or 'none'}"
    return f"{rows}, {lengths.prompt} instruction + {lengths.response} response tokens{kinds}"


def memory(plan: Plan) -> str:
    """Bytes per chip by kind."""
    lines = ["| memory of a chip | GiB |", "|---|---:|"]
    lines += [f"| {KINDS[kind]} | {size / GIB:.3f} |" for kind, size in plan.bytes.items() if size >= 1e-3 * GIB]
    lines.append(f"| **peak, of {plan.topology.chip.usable / GIB:.2f} usable** | **{plan.peak / GIB:.3f}** |")
    return "\n".join(lines)


def sent(plan: Plan) -> str:
    """The collectives of a step and their reasons."""
    lines = ["| sent in a step | what for | chips | runs | MB a chip | ms |", "|---|---|---:|---:|---:|---:|"]
    for row in plan.sent():
        where = " ".join(filter(None, (row["part"], row["when"])))
        over = "" if row["over"] == "links" else ", between slices"
        lines.append(
            f"| {row['kind']}, {where}{over} | {row['why']} | {row['chips']} | {row['runs']} | "
            f"{row['bytes'] / 1e6:,.3g} | {1e3 * row['seconds']:,.2g} |"
        )
    return "\n".join(lines) if len(lines) > 2 else "nothing is sent between chips"


def speed(plan: Plan, steps: int) -> str:
    """The times of a step, each alone; the bound, the sum of the instructions' own bounds and the likely time; and the
    resulting rates. ``steps``: of the whole run."""
    roof, made = plan.roofline, plan.estimate
    if roof is None or made is None:
        return ""
    lines = ["| a step, each as if the others took no time | ms |", "|---|---:|"]
    words = {
        "compute": f"computing, {plan.executed / 1e12:,.3g} TFLOP a chip with what is rematerialised",
        "memory": "reading and writing memory",
        "links": "sending inside a slice",
        "network": "sending between slices",
    }
    lines += [f"| {words[key]} | {1e3 * value:,.3g} |" for key, value in dataclasses.asdict(roof).items() if value]
    lines += ["", f"{plan.flops / 1e12:,.3g} TFLOP in a step, each operation once:", ""]
    lines += [
        f"| | bound: {words[roof.limit].split(',')[0]} | one instruction after another | **likely** |",
        "|---|---:|---:|---:|",
    ]
    times = (roof.bound, made.per_op, made.likely)
    rates: dict[str, list[str]] = {
        "ms a step": [f"{1e3 * t:,.3g}" for t in times],
        "MFU": [f"{100 * plan.mfu_at(t):.0f} %" for t in times],
        "samples a second": [f"{plan.setting.rows / t:,.0f}" for t in times],
        f"hours for {steps:,} steps": [f"{hours(t, steps):,.2g}" for t in times],
    }
    lines += [f"| {name} | {bound} | {per_op} | **{likely}** |" for name, (bound, per_op, likely) in rates.items()]
    return "\n".join(lines)


def losses(plan: Plan, least: float = 0.01) -> str:
    """Breakdown of the likely time, the largest loss first; losses below a fraction ``least`` share one row."""
    total = sum(one.seconds for one in plan.losses)
    lines = ["| where the likely time goes | part | ms | % |", "|---|---|---:|---:|"]

    def row(what: str, part: str, seconds: float) -> str:
        return f"| {what} | {part} | {1e3 * seconds:,.3g} | {100 * seconds / total:.1f} |"

    lines += [row(one.what, one.part, one.seconds) for one in plan.losses if one.seconds >= least * total]
    if rest := sum(one.seconds for one in plan.losses if one.seconds < least * total):
        lines.append(row("all else", "", rest))
    return "\n".join(lines) if total else ""


def hours(seconds: float, steps: int) -> float:
    """Hours of a run of ``steps`` steps of ``seconds`` each."""
    return seconds * steps / 3600


def verdict(plan: Plan, longest: Lengths) -> str:
    """The verdict in one line, for the largest shape that was compiled, with the best remedy if the run does not fit.

    ``longest``: the largest shape of the run.
    """
    chip, lengths = plan.topology.chip, plan.setting.lengths
    size = f"{plan.peak / GIB:.2f} of {chip.usable / GIB:.2f} GiB a chip"
    size += f" at {lengths.prompt} + {lengths.response} tokens"
    size += ", its largest shape" if lengths == longest else ""
    if plan.fits:
        return f"It fits {plan.topology.name}: {size} (compiled in {plan.seconds:.0f} s)"
    return f"IT DOES NOT FIT {plan.topology.name}: {size}; first of all, {remedies(plan)[0]}"


def advice(plan: Plan) -> str:
    """Remedies for a run that does not fit, as a list."""
    return "\n- ".join(["What helps, most of all first:", *remedies(plan)])


def answering(made: Generation) -> str:
    """Memory and speed of generation, in three lines."""
    how = f"{made.beams} beams" if made.beams > 1 else "greedy"
    times = ((made.prefill.bound, made.step.bound), (made.prefill_likely, made.step_likely))
    bound, likely = (
        f"{1e3 * prefill:,.3g} ms of prefill, {1e3 * step:,.3g} ms a token, {made.rows / step:,.0f} tokens a second"
        for prefill, step in times
    )
    return (
        f"Answering {made.rows} instructions at a time, {how}: peak {made.prefill_peak / GIB:.2f} GiB a chip prefill, "
        f"{made.decoding_peak / GIB:.2f} GiB decoding{'' if made.fits else ': DOES NOT FIT'}\n"
        f"at best {bound} ({made.step.limit}); likely {likely}\n"
        f"A token moves {made.token_bytes / 1e9:,.3g} GB a chip, {made.excess:.2f} times the weights that it reads"
    )


def compared(plans: Sequence[Plan]) -> str:
    """Several plans for the same batch, one row each; MFU and samples are based on the likely time."""
    lines = [
        "| mesh | layout | int8 | remat | batch | GiB | fits | bound ms | limit "
        "| per op ms | likely ms | MFU % | samples/s |",
        "|---|---|---|---|---:|---:|---|---:|---|---:|---:|---:|---:|",
    ]
    for plan in plans:
        s, roof, made = plan.setting, plan.roofline, plan.estimate
        layout = "/".join(layouts(s).values())
        int8 = "yes" if s.int8 is True else s.int8 or ""
        cells = f"| {'x'.join(map(str, s.mesh))} | {layout} | {int8} | {s.remat} | {s.rows} "
        cells += f"| {plan.peak / GIB:.2f} | {'yes' if plan.fits else 'no'} "
        if roof is None or made is None:
            cells += "| | | | | | |"
        else:
            cells += f"| {1e3 * roof.bound:.0f} | {roof.limit} | {1e3 * made.per_op:.0f} | {1e3 * made.likely:.0f} "
            cells += f"| {100 * plan.mfu_at(made.likely):.0f} | {s.rows / made.likely:,.0f} |"
        lines.append(cells)
    return "\n".join(lines)
