"""Speed on one accelerator, measured and planned: train step and decoding of XL and 7B, with random weights.

    python benchmarks/gpu.py [--scale full|tiny] [--json FILE] [--only PART ...] [--seconds N]

Training is a GPU's share of the batch of `configs/`, variant gpu_8, at 32 query, 64 prompt and 64 response tokens: the
median of blocked steps after warm-up. MFU counts the step's FLOPs once (`plan.flops`). Decoding writes 64 tokens a row
after the prefill, which is not counted. The columns beside them are `instructblip plan` for this one device: the same
program, compiled and read. Weights are made on the device. Every part is a process of its own with a time limit, and
what it measured is kept if its plan comes too late. --scale tiny tries all of it on any machine, a CPU planned as h100.
"""

import argparse
import functools
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

PARTS = {
    "train-7b": ("vicuna-7b", {}, 0.3),
    "train-xl": ("flan-t5-xl", {}, 0.25),
    "decode-7b": ("vicuna-7b", {"int8": False}, 0.15),
    "decode-7b-int8": ("vicuna-7b", {"int8": True}, 0.15),
    "decode-xl": ("flan-t5-xl", {"int8": False}, 0.15),
}
"""Part -> model, options, and the share of --seconds after which it is given up."""
CONFIGS = {"vicuna-7b": "instructblip_vicuna7b.py", "flan-t5-xl": "instructblip_flan_t5_xl.py"}
GPUS = 8
"""The GPUs of the variant gpu_8, which share its batch."""
SCALES: dict[str, dict[str, Any]] = {
    "full": {"lengths": (64, 64), "rows": 0, "steps": 20, "decoded": (1, 64), "new": 64},
    "tiny": {"lengths": (16, 16), "rows": 2, "steps": 3, "decoded": (1, 2), "new": 16},
}
"""Scale -> prompt and response tokens; rows of a train step (0: the configuration's) and steps that are timed; rows
that are decoded at a time and their new tokens."""
WARM_UP = 3
ROUNDS = 3


def setting(kind: str, scale: str, **changes: Any) -> Any:
    """The setting that `instructblip plan` compiles for this model's variant gpu_8, for one of its GPUs."""
    import dataclasses

    import random_model

    from instructblip_jax.commands import plan
    from instructblip_jax.convert.layouts import hf_instructblip
    from instructblip_jax.run.config import resolve

    sizes = SCALES[scale]
    run = resolve(runpy.run_path(str(ROOT / "configs" / CONFIGS[kind]))["get_config"]("gpu_8"))
    made, _ = plan.settings(run, sizes["lengths"], sizes["rows"] or run.batch_size // GPUS)
    if scale == "tiny":
        with tempfile.TemporaryDirectory() as directory:
            random_model.write(Path(directory), scale, "llama" if kind == "vicuna-7b" else "t5")
            config = hf_instructblip.read_config(Path(directory) / "config.json")
        made = dataclasses.replace(made, model=config, lengths=plan.Lengths(*sizes["lengths"]))
    return dataclasses.replace(made, **changes)


@functools.cache
def _maker(shape: tuple[int, ...], dtype: str, scale: float, ones: bool) -> Callable:
    import jax
    import jax.numpy as jnp

    def make(key: jax.Array) -> jax.Array:
        if ones:
            return jnp.ones(shape, dtype)
        if jnp.issubdtype(dtype, jnp.integer):
            return jax.random.randint(key, shape, -127, 128, dtype)
        return jax.random.normal(key, shape, dtype) * jnp.asarray(scale, dtype)

    return jax.jit(make)


def random_arrays(shapes: dict[str, Any]) -> dict[str, Any]:
    """Arrays of these shapes on the device: norms of one, matrices that keep the variance."""
    import jax

    def one(number: int, path: str, x: Any) -> jax.Array:
        last = path.rpartition("/")[2]
        deviation = x.shape[-2] ** -0.5 if last == "kernel" else 0.02
        make = _maker(x.shape, x.dtype.name, deviation, last == "scale")
        if last == "kernel_scale":  # of weights between -127 and 127
            return make(jax.random.key(number)) * 0.0 + 1 / (64 * x.shape[-1] ** 0.5)
        return make(jax.random.key(number))

    return {path: one(number, path, x) for number, (path, x) in enumerate(shapes.items())}


def random_batch(shapes: dict[str, Any], words: int) -> dict[str, Any]:
    """A batch of these shapes: random pictures and tokens, no padding."""
    import numpy as np

    rng = np.random.default_rng(0)

    def one(name: str, x: Any) -> np.ndarray:
        if name.endswith("mask"):
            return np.ones(x.shape, np.int32)
        if np.issubdtype(x.dtype, np.integer):
            return rng.integers(4, min(words, np.iinfo(x.dtype).max), x.shape, x.dtype)
        return rng.standard_normal(x.shape, np.float32)

    return {name: one(name, x) for name, x in shapes.items()}


def topology() -> Any:
    """The one device as `instructblip plan` knows it; a CPU is planned as an h100."""
    import jax

    from instructblip_jax.plan import chips

    chip = chips.chip_of(jax.devices()[0].device_kind) or chips.CHIPS["h100"]
    return chips.Topology(chip, (1,) * max(1, chip.torus))


def seconds_of(call: Callable[[], Any], rounds: int) -> float:
    """Median seconds of blocked calls."""
    import jax

    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def train(kind: str, scale: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The train step: what was measured, then that with the plan."""
    import jax

    from instructblip_jax.plan import compiled, flops, report, tracing
    from instructblip_jax.train.optimizer import optimizer
    from instructblip_jax.train.step import init_state, make_step

    one = setting(kind, scale, **options)
    mesh = compiled.mesh_of(one, jax.devices()[:1])
    described = compiled.describe(one, mesh)
    tx = optimizer(one.optim, 60_000)
    step = make_step(described.merge, tx, seed=0)
    words = min(one.model.text.vocab_size, one.model.qformer.vocab_size) - 1
    with jax.set_mesh(mesh):
        state: Any = init_state(random_arrays(described.train), tx)
        frozen = random_arrays(described.frozen)
        batch = jax.device_put(random_batch(described.batch, words))

        def run() -> Any:
            nonlocal state
            state, metrics = step(state, frozen, batch)
            return metrics["loss"]

        begun = time.perf_counter()
        loss = float(run())
        first = time.perf_counter() - begun
        seconds_of(run, WARM_UP)
        seconds = seconds_of(run, SCALES[scale]["steps"])
    shapes = {name: x.shape for name, x in described.batch.items()}
    work = flops.of_batch(tracing.describe(one.model, trainable=one.trainable), shapes)
    chip = topology().chip
    measured = {
        "rows": one.rows,
        "unit": "samples/s",
        "measured": one.rows / seconds,
        "mfu": work / (seconds * chip.bf16),
        "first_call_seconds": first,
        "loss": loss,
        "remat": one.remat,
        "int8": one.int8,
    }
    yield measured
    plan = report.plan(one, topology(), jax.devices()[:1]).as_json()
    yield measured | planned(plan, "step_seconds", one.rows) | {"peak_bytes": plan["peak_bytes_per_chip"]}


def decode(kind: str, scale: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Greedy decoding, for each number of rows: what was measured, then that with the plan."""
    import dataclasses

    import jax

    from instructblip_jax import families
    from instructblip_jax.decoding.text import options_for
    from instructblip_jax.model import Model
    from instructblip_jax.plan import compiled, report
    from instructblip_jax.systems.build import abstract

    one, new = setting(kind, scale, **options), SCALES[scale]["new"]
    mesh = compiled.mesh_of(one, jax.devices()[:1])
    scan = topology().chip.tpu  # as `Model.from_pretrained` chooses
    graph, train, frozen = abstract(one.model, mesh=mesh, dtype=one.dtype, int8=one.int8, scan_layers=scan)
    family = families.FAMILIES["instructblip"]
    model = Model(one.model, graph, random_arrays(train), random_arrays(frozen), mesh, Path(), family)
    words = min(one.model.text.vocab_size, one.model.qformer.vocab_size) - 1
    options_ = options_for(model, max_new_tokens=new, min_new_tokens=new)
    found = []
    for rows in SCALES[scale]["decoded"]:
        shapes = compiled.batch_of(dataclasses.replace(one, rows=rows), mesh, training=False)
        batch = random_batch(shapes, words)
        context = model.prefill(model.encode(batch), batch)
        begun = time.perf_counter()
        model.search(context, options_)
        first = time.perf_counter() - begun
        seconds = seconds_of(functools.partial(model.search, context, options_), ROUNDS)
        found.append(
            {
                "rows": rows,
                "unit": "tokens/s",
                "measured": rows * new / seconds,
                "first_call_seconds": first,
                "int8": one.int8,
            }
        )
        yield from found[-1:]
    for measured in found:
        of = dataclasses.replace(one, rows=measured["rows"])
        plan = report.generation(of, topology(), jax.devices()[:1], max_new_tokens=new).as_json()
        yield measured | planned(plan, "token_seconds", measured["rows"])


def planned(plan: dict[str, Any], name: str, done: int) -> dict[str, Any]:
    """The plan's rates a second, of seconds in which so much is done; without its middle estimate if it has none."""
    seconds = {kind: plan.get(f"{name}_{kind}") for kind in ("likely", "bound")}
    return {kind: done / value for kind, value in seconds.items() if value}


def work(part: str, scale: str) -> None:
    """Run one part, and print its rows as JSON lines; a row with a plan replaces the one without."""
    import jax

    kind, options, _ = PARTS[part]
    device = jax.devices()[0].device_kind
    run = train if part.startswith("train") else decode
    for row in run(kind, scale, options):
        print(json.dumps({"part": part, "device": device} | row), flush=True)


def measured(part: str, scale: str, limit: float) -> list[dict[str, Any]]:
    """The rows of a part that came in time; one with an "error" if the part did not end well."""
    command = [sys.executable, __file__, "--worker", part, "--scale", scale]
    error = ""
    with tempfile.TemporaryFile("w+") as out:
        try:
            ended = subprocess.run(command, stdout=out, timeout=limit).returncode
            error = f"ended with {ended}, its message is above" if ended else ""
        except subprocess.TimeoutExpired:
            error = f"given up after {limit:.0f} s"
        out.seek(0)
        lines = [json.loads(line) for line in out if line.startswith('{"part"') and line.endswith("}\n")]
    rows = list({line["rows"]: line for line in lines}.values())
    return [*rows, {"part": part, "error": error}] if error else rows


HEAD = """| part | rows | measured | MFU | plan: middle | plan: bound | measured / middle | first call |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def line(row: dict[str, Any]) -> str:
    """A row of Markdown."""
    if "error" in row:
        return f"| {row['part']} | | {row['error']} | | | | | |"
    rate = "{:.1f}".format
    middle, bound = (rate(row[name]) if name in row else "-" for name in ("likely", "bound"))
    share = f"{row['measured'] / row['likely']:.2f}" if "likely" in row else "-"
    mfu = f"{row['mfu']:.1%}" if "mfu" in row else "-"
    return (
        f"| {row['part']} | {row['rows']} | {rate(row['measured'])} {row['unit']} | {mfu} | {middle} | {bound} "
        f"| {share} | {row['first_call_seconds']:.1f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--json", type=Path, help="write the rows here, too, after every part")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS), help="these parts alone")
    parser.add_argument("--seconds", type=float, default=530, help="the most that all parts together take")
    parser.add_argument("--worker", choices=sorted(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.scale)
        return
    end = time.monotonic() + args.seconds
    rows: list[dict[str, Any]] = []
    print(HEAD, flush=True)
    for part in args.only:
        found = measured(part, args.scale, max(1.0, min(PARTS[part][2] * args.seconds, end - time.monotonic())))
        rows += found
        print("\n".join(map(line, found)), flush=True)
        if args.json:
            args.json.write_text(json.dumps({"scale": args.scale, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{os.cpu_count()} CPU cores; {', '.join(sorted({row['device'] for row in rows if 'device' in row}))}")
    sys.exit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()
