"""Make the figures of docs/plan.md: plan the paper's configurations on slices, write each plan as JSON, and draw the
tables and the plot from them.

    python tools/plan_docs.py --plans DIR [--only NAME ...] [--draw]
    python tools/plan_docs.py --flops [--only NAME ...]

A plan takes some minutes of compiling; one that is in DIR already is not made again. --draw makes no plan; nor does
--flops, which prints the FLOPs of each case from its trace.
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
"""Configuration -> the slice for which its largest shape and generation are planned, too."""
SMALLEST = ("v4_2x2x1", "v5p_2x2x1")
LAYOUTS = {
    "replicated_int8": ((-1, 1, 1), "replicated", True),
    "tensor": ((4, 1, 4), "tensor", False),
    "sequence": ((4, 1, 4), "sequence", False),
    "fsdp": ((1, 16, 1), "fsdp", False),
}
"""Layouts of vicuna-7b on v5e:4x4: name -> mesh, layout of the language model, int8."""
GIB = chips.GIB


def setting_of(name: str, variant: str) -> tuple[compiled.Setting, compiled.Setting, int]:
    """A configuration's timed setting, that of its largest shape, and its steps."""
    path = ROOT / "configs" / f"instructblip_{name}.py"
    run = resolve(runpy.run_path(str(path))["get_config"](variant))
    return *settings(run, LENGTHS), run.steps


def cases() -> dict[str, tuple]:
    """Name -> topology, setting, True if generation is planned."""
    found: dict[str, tuple] = {}
    for name, main in MAIN.items():
        for variant in (main, *SMALLEST):
            timed, largest, _ = setting_of(name, variant)
            topology = variant.replace("_", ":")
            found[f"{name}-{variant}"] = (topology, timed, variant == main)
            if variant == main:
                found[f"{name}-{variant}-largest"] = (topology, largest, False)
    timed, _, _ = setting_of("vicuna7b", "v5e_4x4")
    for way, (mesh, llm, int8) in LAYOUTS.items():
        vit = "fsdp" if llm in ("fsdp", "sharded") else "replicated"
        layout = Layout(trained="replicated", vit=vit, llm=llm)
        found[f"layout-{way}"] = ("v5e:4x4", dataclasses.replace(timed, mesh=mesh, layout=layout, int8=int8), False)
    return found


def make(name: str, topology: str, setting: compiled.Setting, generation: bool, directory: Path) -> None:
    """Plan one case and write it."""
    slice_ = chips.parse(topology)
    devices = compiled.devices(slice_)
    plan = report.plan(setting, slice_, devices)
    out = plan.as_json() | {
        "hours_for_run": table.hours(plan, 60_000),
        "tables": [table.memory(plan), table.sent(plan)],
    }
    if generation:
        try:
            out["generation"] = report.generation(dataclasses.replace(setting, rows=64), slice_, devices).as_json()
        except compiled.DoesNotFit as error:
            out["generation"] = {"fits": False, "needed": error.needed}
    (directory / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {plan.peak / GIB:.2f} GiB, MFU bound {100 * plan.mfu:.0f} %, {plan.seconds:.0f} s", flush=True)


def counted(setting: compiled.Setting) -> float:
    """FLOPs of one training sample."""
    lengths = setting.lengths
    batch = setting.model.batch(setting.rows, lengths.prompt, lengths.response, lengths.kinds)
    system = tracing.describe(setting.model, trainable=setting.trainable or None)
    return flops.of_batch(system, {name: x.shape for name, x in batch.items()}) / setting.rows


def row(name: str, plan: dict) -> str:
    """A row of the main table."""
    roof = {key: 1e3 * value for key, value in plan["roofline_seconds"].items()}
    ways = "/".join(plan["layout"].values()) if len(set(plan["layout"].values())) > 1 else plan["layout"]["llm"]
    sent = sum(one["bytes"] for one in plan["collectives"]) / 1e9
    return (
        f"| {name} | {plan['topology']} | {plan['batch_size']} | {ways}{', int8' if plan['int8'] else ''} "
        f"| {plan['remat']} "
        f"| {plan['peak_bytes_per_chip'] / GIB:.1f} of {plan['usable_bytes_per_chip'] / GIB:.1f} "
        f"| {roof['compute']:.0f} | {roof['memory']:.0f} | {roof['links']:.0f} | {sent:.2f} "
        f"| **{100 * plan['mfu_bound']:.0f}** | {plan['samples_per_second_bound']:,.0f} | {plan['hours_for_run']:.1f} |"
    )


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
    parser.add_argument("--draw", action="store_true", help="print the tables and write docs/plan.png")
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
    for name in cases():
        if name in plans:
            print(row(name, plans[name]))
    draw(plans, ROOT / "docs" / "plan.png")


if __name__ == "__main__":
    main()
