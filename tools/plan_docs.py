"""Make the figures of docs/plan.md: plan the paper's configurations on slices and GPU machines, write each plan as
JSON, and generate the page's tables and plot from these files.

    python tools/plan_docs.py --plans DIR [--only NAME ...] [--draw]
    python tools/plan_docs.py --flops [--only NAME ...]

A plan takes some minutes of compilation; plans that are in DIR already are not made again. --draw makes no plan: it
writes the tables between their marks in docs/plan.md, with a row for each plan in DIR. --flops makes none either, and
prints the FLOPs of each case from its trace.
"""

import argparse
import dataclasses
import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

from instructblip_jax.commands.plan import settings  # noqa: E402
from instructblip_jax.plan import chips, compiled, flops, report, table, tracing  # noqa: E402
from instructblip_jax.run.config import resolve  # noqa: E402
from instructblip_jax.sharding import Layout  # noqa: E402

LENGTHS = (64, 64)
MAIN = {
    "flan_t5_xl": "v5e_4x4",
    "vicuna7b": "v5e_4x4",
    "flan_t5_xxl": "v6e_4x4",
    "vicuna13b": "v6e_4x4",
}
"""Configuration -> the slice for which its largest shape and generation are planned too."""
MODELS = {
    "flan_t5_xl": "FlanT5-XL",
    "vicuna7b": "Vicuna-7B",
    "flan_t5_xxl": "FlanT5-XXL",
    "vicuna13b": "Vicuna-13B",
}
LLAVA = {
    "stage1_v5e_4x4": ("v5e:4x4", (8, 32)),
    "stage2_v5e_8x8": ("v5e:8x8", (128, 512)),
    "lora_v5e_1x1": ("v5e:1x1", (128, 512)),
    "lora_gpu_1": ("h100:1", (128, 512)),
}
"""Variants of configs/llava_1_5_7b.py: their machines and tokens of instruction and response; also planned at their
largest shape."""
GPUS = {"gpu_8": "h100:8"}
"""Variant -> the machine that it is planned for, with generation."""
SMALLEST = ("v4_2x2x1", "v5p_2x2x1")
LAYOUTS = {
    "replicated_int8": ((-1, 1, 1), "replicated", True),
    "tensor": ((4, 1, 4), "tensor", False),
    "sequence": ((4, 1, 4), "sequence", False),
    "fsdp": ((1, 16, 1), "fsdp", False),
}
"""Layouts of vicuna-7b on v5e:4x4: name -> mesh, layout of the language model, int8."""
GIB = chips.GIB


def setting_of(
    name: str, variant: str, lengths: tuple[int, int] = LENGTHS
) -> tuple[compiled.Setting, compiled.Setting, int]:
    """A configuration's timed setting, that of its largest shape, and its steps. ``name``: of a file in configs/."""
    run = resolve(runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](variant))
    return *settings(run, lengths), run.steps


def cases() -> dict[str, tuple]:
    """Name -> topology, setting, True if generation is planned."""
    found: dict[str, tuple] = {}
    for name, main in MAIN.items():
        for variant in (main, *GPUS, *SMALLEST):
            timed, largest, _ = setting_of(f"instructblip_{name}", variant)
            topology = GPUS.get(variant, variant.replace("_", ":"))
            found[f"{name}-{variant}"] = (topology, timed, variant == main or variant in GPUS)
            if variant == main:
                found[f"{name}-{variant}-largest"] = (topology, largest, False)
    timed, _, _ = setting_of("instructblip_vicuna7b", "v5e_4x4")
    for way, (mesh, llm, int8) in LAYOUTS.items():
        vit = "fsdp" if llm in ("fsdp", "sharded") else "replicated"
        layout = Layout(trained="replicated", vit=vit, llm=llm)
        found[f"layout-{way}"] = ("v5e:4x4", dataclasses.replace(timed, mesh=mesh, layout=layout, int8=int8), False)
    for variant, (topology, lengths) in LLAVA.items():
        timed, largest, _ = setting_of("llava_1_5_7b", variant, lengths)
        found[f"llava-{variant}"] = (topology, timed, False)
        found[f"llava-{variant}-largest"] = (topology, largest, False)
    return found


def make(name: str, topology: str, setting: compiled.Setting, generation: bool, directory: Path) -> None:
    """Plan one case and write it."""
    slice_ = chips.parse(topology)
    devices = compiled.devices(slice_)
    plan = report.plan(setting, slice_, devices)
    out = plan.as_json() | {"tables": [table.memory(plan), table.sent(plan), table.losses(plan)]}
    if generation:
        try:
            out["generation"] = report.generation(dataclasses.replace(setting, rows=64), slice_, devices).as_json()
        except compiled.DoesNotFit as error:
            out["generation"] = {"fits": False, "needed": error.needed}
    (directory / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    likely = plan.mfu_at(plan.estimate.likely) if plan.estimate else 0.0
    told = f"MFU at most {100 * plan.mfu:.0f} %, likely {100 * likely:.0f} %"
    print(f"{name}: {plan.peak / GIB:.2f} GiB, {told}, compiled in {plan.seconds:.0f} s", flush=True)


def counted(setting: compiled.Setting) -> float:
    """FLOPs of one training sample."""
    lengths = setting.lengths
    batch = setting.model.batch(setting.rows, lengths.prompt, lengths.response, lengths.kinds)
    system = tracing.describe(setting.model, trainable=setting.trainable or None)
    return flops.of_batch(system, {name: x.shape for name, x in batch.items()}) / setting.rows


def model(name: str) -> str:
    """The name of a case's model on the page."""
    return MODELS[name.partition("-")[0]]


def runs(plans: dict[str, dict]) -> str:
    """The main table, with a row for each plan of a configuration."""
    lines = [
        "| model | on | batch | language model | `remat` | peak GiB a chip | ms: bound | per op | likely "
        "| MFU: bound | per op | likely | samples/s | hours |",
        "|---|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, plan in plans.items():
        if name.startswith(("layout-", "llava-")) or name.endswith("-largest"):
            continue
        ms = [1e3 * plan[f"step_seconds_{key}"] for key in ("bound", "per_op", "likely")]
        mfu = [100 * plan[f"mfu_{key}"] for key in ("bound", "per_op", "likely")]
        how = plan["layout"]["llm"] + (", int8" if plan["int8"] else "")
        lines.append(
            f"| {model(name)} | {plan['topology']} | {plan['batch_size']} | {how} | {plan['remat']} "
            f"| {plan['peak_bytes_per_chip'] / GIB:.1f} of {plan['usable_bytes_per_chip'] / GIB:.1f} "
            f"| {ms[0]:.0f} | {ms[1]:.0f} | **{ms[2]:.0f}** | {mfu[0]:.0f} % | {mfu[1]:.0f} % | **{mfu[2]:.0f} %** "
            f"| {plan['samples_per_second_likely']:,.0f} | {table.hours(plan['step_seconds_likely'], 60_000):.1f} |"
        )
    return "\n".join(lines)


def lost(plans: dict[str, dict], least: float = 0.02) -> str:
    """The breakdown of the main configurations' likely time, in percent: a column for each, a row for each loss."""
    names = [f"{name}-{variant}" for name, main in MAIN.items() for variant in (main, *GPUS)]
    shares: dict[str, dict[str, float]] = {}
    for name in (name for name in names if name in plans):
        for one in plans[name]["losses"]:
            what = f"{one['what']}, {one['part']}" if one["part"] else one["what"]
            share = one["seconds"] / plans[name]["step_seconds_likely"]
            shares.setdefault(what, {})[name] = share
    rest: dict[str, float] = {}
    kept = {what: row for what, row in shares.items() if max(row.values()) >= least}
    for what, row in shares.items():
        if what not in kept:
            rest = {name: rest.get(name, 0.0) + row.get(name, 0.0) for name in names}
    shown = [name for name in names if name in plans]
    if not shown:
        return ""
    heads = [f"{model(name)}, {plans[name]['topology']}" for name in shown]
    lines = [f"| % of the likely time | {' | '.join(heads)} |", f"|---|{'---:|' * len(shown)}"]
    order = sorted(kept, key=lambda what: -max(kept[what].values()))
    for what, row in [*((what, kept[what]) for what in order), ("all else", rest)]:
        lines.append(f"| {what} | {' | '.join(f'{100 * row.get(name, 0.0):.1f}' for name in shown)} |")
    return "\n".join(lines)


def answering(plans: dict[str, dict]) -> str:
    """The table of generation, with a row for each plan that has it."""
    lines = [
        "| model | on | rows | prefill ms: bound | likely | a token, ms: bound | likely | tokens/s, likely "
        "| GB a token and chip | times the weights |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, plan in plans.items():
        made = plan.get("generation", {})
        if "token_seconds_likely" not in made:
            continue
        ms = [1e3 * made[f"{what}_seconds_{key}"] for what in ("reading", "token") for key in ("bound", "likely")]
        moved = made["token_bytes_per_chip"]
        lines.append(
            f"| {model(name)} | {plan['topology']} | {made['batch_size']} | {ms[0]:,.0f} | {ms[1]:,.0f} "
            f"| {ms[2]:.2f} | {ms[3]:.2f} | {made['tokens_per_second_likely']:,.0f} "
            f"| {moved / 1e9:.1f} | {moved / made['weight_bytes_per_chip']:.2f} |"
        )
    return "\n".join(lines)


def layouts(plans: dict[str, dict]) -> str:
    """The layouts of one model, and the main traffic of each."""
    lines = [
        "| language model | mesh (data, fsdp, tensor) | peak GiB | ms: arithmetic | memory | links | likely "
        "| sent a chip, GB | most of it |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name in (f"layout-{way}" for way in LAYOUTS):
        if name in plans:
            plan = plans[name]
            roof = {key: 1e3 * value for key, value in plan["roofline_seconds"].items()}
            by_reason: dict[str, float] = {}
            for one in plan["collectives"]:
                by_reason[one["why"]] = by_reason.get(one["why"], 0.0) + one["bytes"] / 1e9
            most = sorted(by_reason.items(), key=lambda item: -item[1])[:3]
            how = plan["layout"]["llm"] + (", int8" if plan["int8"] else "")
            lines.append(
                f"| {how} | {', '.join(map(str, plan['mesh'].values()))} | {plan['peak_bytes_per_chip'] / GIB:.1f} "
                f"| {roof['compute']:.0f} | {roof['memory']:.0f} | {roof['links']:.0f} "
                f"| **{1e3 * plan['step_seconds_likely']:.0f}** | {sum(by_reason.values()):.1f} "
                f"| {'; '.join(f'{why} ({size:.1f})' for why, size in most)} |"
            )
    return "\n".join(lines)


def conversations(plans: dict[str, dict]) -> str:
    """LLaVA's runs: memory by kind, time and hours, at typical and at the largest lengths."""
    lines = [
        "| run | on | batch | text tokens | `remat` | frozen GiB a chip | masters | moments | rest | peak "
        "| ms: bound | likely | MFU: likely | hours |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for variant in LLAVA:
        config = runpy.run_path(str(ROOT / "configs" / "llava_1_5_7b.py"))["get_config"](variant)
        for name in (f"llava-{variant}", f"llava-{variant}-largest"):
            if name not in plans:
                continue
            plan = plans[name]
            kinds = {kind: size / GIB for kind, size in plan["bytes"].items()}
            frozen, masters, moments = (kinds[kind] for kind in ("frozen", "trained", "optimizer"))
            peak, likely = plan["peak_bytes_per_chip"] / GIB, plan.get("step_seconds_likely", 0.0)
            parts = config.optim.accumulation
            lines.append(
                f"| {variant.partition('_')[0]}{', int8' if plan['int8'] else ''} | {plan['topology']} "
                f"| {plan['batch_size']}{f' in {parts} parts' if parts > 1 else ''} "
                f"| {plan['lengths']['instruction']} + {plan['lengths']['response']} | {plan['remat']} "
                f"| {frozen:.1f} | {masters:.1f} | {moments:.1f} | {peak - frozen - masters - moments:.1f} "
                f"| **{peak:.1f}** of {plan['usable_bytes_per_chip'] / GIB:.1f} "
                f"| {1e3 * plan.get('step_seconds_bound', 0.0):,.0f} | **{1e3 * likely:,.0f}** "
                f"| {100 * plan.get('mfu_likely', 0.0):.0f} % | {table.hours(likely, config.steps):.1f} |"
            )
    return "\n".join(lines)


TABLES = {"llava": conversations, "runs": runs, "losses": lost, "answering": answering, "layouts": layouts}
"""Mark in docs/plan.md -> its table."""


def write(plans: dict[str, dict], page: str) -> str:
    """The page with each table between its marks, ``<!-- NAME -->`` and ``<!-- /NAME -->``, regenerated."""
    for mark, made in TABLES.items():
        begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        before, _, rest = page.partition(begin)
        old, _, after = rest.partition(end)
        text = made(plans)
        page = f"{before}{begin}\n{text if text.count(chr(10)) > 1 else old.strip()}\n{end}{after}"
    return page


def draw(plans: dict[str, dict], path: Path) -> None:
    """Plot memory and times of one model by layout, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in (f"layout-{way}" for way in LAYOUTS) if name in plans]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    labels = [name.removeprefix("layout-").replace("_", "\n") for name in names]
    bottom = [0.0] * len(names)
    for kind in ("frozen", "trained", "optimizer", "temporaries"):
        sizes = [plans[name]["bytes"][kind] / GIB for name in names]
        left.bar(labels, sizes, bottom=bottom, label=kind)
        bottom = [a + b for a, b in zip(bottom, sizes, strict=True)]
    left.axhline(15.75, color="black", linestyle=":", label="of a v5e")
    left.set_ylabel("GiB a chip")
    left.legend(fontsize=8)
    width = 0.27
    for n, key in enumerate(("compute", "memory", "links")):
        times = [1e3 * plans[name]["roofline_seconds"][key] for name in names]
        right.bar([x + (n - 1) * width for x in range(len(names))], times, width, label=key)
    right.set_xticks(range(len(names)), labels)
    right.set_ylabel("ms a step, each alone")
    right.legend(fontsize=8)
    figure.suptitle("vicuna-7b, batch 128, 32 + 64 + 64 tokens, v5e:4x4: layouts of the language model")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=Path, help="directory with a JSON file for each plan")
    parser.add_argument("--only", nargs="*", default=tuple(cases()), help="only these, in this order")
    parser.add_argument("--draw", action="store_true", help="write the tables of docs/plan.md, and docs/plan.png")
    parser.add_argument("--flops", action="store_true", help="print the FLOPs of each case")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    if args.flops:
        for name in args.only:
            _, setting, _ = cases()[name]
            print(f"{name}: {counted(setting) / 1e12:.4f} TFLOP a sample", flush=True)
        return
    if args.plans is None:
        parser.error("--plans is needed")
    args.plans.mkdir(parents=True, exist_ok=True)
    if not args.draw:
        for name in args.only:
            if not (args.plans / f"{name}.json").is_file():
                make(name, *cases()[name], args.plans)
        return
    plans = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(args.plans.glob("*.json"))}
    ordered = {name: plans[name] for name in cases() if name in plans}
    page = ROOT / "docs" / "plan.md"
    page.write_text(write(ordered, page.read_text(encoding="utf-8")), encoding="utf-8")
    if any(name.startswith("layout-") for name in ordered):
        draw(plans, ROOT / "docs" / "plan.png")


if __name__ == "__main__":
    main()
