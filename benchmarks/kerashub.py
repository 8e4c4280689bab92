"""BLIP-2 compared with KerasHub's: same sizes, batch and AdamW settings, float32, JAX on both sides, on this CPU.

    python benchmarks/kerashub.py --make            # once: KerasHub in an environment of its own
    python benchmarks/kerashub.py [--family t5|opt] [--scale small|tiny] [--rounds 5] [--json FILE]

Whole train steps (`train_on_batch`; our step with `put_batch`) and whole greedy calls (`generate`; `ib.generate_ids`).
Random weights on both sides, towers frozen, Q-Former, queries and projection trained; parameters are counted on both
sides and must agree. Ours drops attention weights, too, as BERT does; KerasHub's Q-Former does not. Each side has a
process of its own; they take turns, so that only one works at a time. The first call, in which each compiles, is shown
apart, as is the peak of each process (KerasHub's holds TensorFlow).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": ""}

import checkpoints  # noqa: E402
import numpy as np  # noqa: E402
import random_model  # noqa: E402
from workers import Worker, serve, timed  # noqa: E402

from instructblip_jax.train.optimizer import OptimConfig  # noqa: E402

SIDES = ("ours", "KerasHub")
PACKAGES = ("keras-hub==0.32.0", "keras==3.15.1")
SECONDS = 2.0  # the least that a round of one side should take
ROWS, NEW_TOKENS = 16, 32
PROMPTS = [(text, rows) for text in (16, 128) for rows in (1, 16)]
"""Prompts of ``text`` tokens in batches of ``rows``."""
OPTIM = OptimConfig(learning_rate=1e-4, warmup_steps=0)
OPT = {
    "tiny": {"hidden_size": 36, "ffn_dim": 80, "num_hidden_layers": 3, "num_attention_heads": 3},
    "small": {"hidden_size": 192, "ffn_dim": 768, "num_hidden_layers": 5, "num_attention_heads": 8},
}
"""Scale -> the sizes of an OPT in the place of the FlanT5."""


def make(environment: Path) -> None:
    """Install KerasHub into a new environment, with the JAX that this project runs on."""
    import jax

    venv.create(environment, with_pip=True)
    subprocess.run(
        [environment / "bin" / "pip", "install", "--quiet", *PACKAGES, f"jax=={jax.__version__}"], check=True
    )


def missing(environment: Path) -> str:
    """Why the peer cannot run, or ""."""
    python = environment / "bin" / "python"
    if not python.exists():
        return f"there is no {python}; --make installs {' and '.join(PACKAGES)} there"
    probe = subprocess.run([python, "-c", "import keras_hub"], env=_peers_environment(), capture_output=True, text=True)
    return "" if probe.returncode == 0 else f"{python} cannot import keras_hub: {probe.stderr.strip()[-300:]}"


def _peers_environment() -> dict[str, str]:
    return {**os.environ, "KERAS_BACKEND": "jax"}


def write(directory: Path, scale: str, family: str) -> list[str]:
    """Write a random model, the batches of all cases and what the peer must know; returns the cases' names."""
    sizes = dict(random_model.SCALES[scale])
    if family == "opt":
        text = checkpoints.TEXT["opt"] | OPT[scale] | {"word_embed_proj_dim": OPT[scale]["hidden_size"]}
        sizes["text_config"] = text | {"vocab_size": 512, "max_position_embeddings": 512}
    else:
        text = sizes["text_config"]
        sizes["text_config"] = text | {"num_decoder_layers": text["num_layers"]}
    raw = checkpoints.config_json("blip-2", sizes)
    checkpoints.write(directory, raw)
    batches = {"train": checkpoints.batch(raw, rows=ROWS, text=24, answer=12)}
    for text, rows in PROMPTS:
        batches[f"generate, prompt {text}, batch {rows}"] = random_model.batch(directory, rows, text)
    for name, batch in batches.items():
        np.savez(directory / f"{name}.npz", **batch)
    optim = {
        "learning_rate": OPTIM.learning_rate,
        "weight_decay": OPTIM.weight_decay,
        "beta_1": OPTIM.beta1,
        "beta_2": OPTIM.beta2,
        "epsilon": OPTIM.epsilon,
    }
    (directory / "race.json").write_text(json.dumps({"optim": optim, "new_tokens": NEW_TOKENS}), encoding="utf-8")
    return list(batches)


def work(directory: Path) -> None:
    """Serve our side: a case and a number of calls -> seconds a call, parameters and the peak."""
    import jax

    import instructblip_jax as ib
    from instructblip_jax.mesh import put_batch, replicate
    from instructblip_jax.systems.build import merge
    from instructblip_jax.train.optimizer import optimizer
    from instructblip_jax.train.step import init_state, make_step

    model = ib.InstructBlip.from_pretrained(directory, dtype="float32")
    counts = {
        name: sum(x.size for x in arrays.values())
        for name, arrays in (("trained", model.train), ("frozen", model.frozen))
    }

    def trainer(batch: dict[str, np.ndarray]):
        tx = optimizer(OPTIM, 10_000)
        state = replicate(model.mesh, init_state(model.train, tx))
        step = make_step(partial(merge, model.graph), tx, seed=0, compiler_options=model.step_options)

        def one() -> None:
            nonlocal state
            with jax.set_mesh(model.mesh):
                state, metrics = step(state, model.frozen, put_batch(model.mesh, batch))
                float(metrics["loss"])

        return one

    @cache
    def start(name: str):
        with np.load(directory / f"{name}.npz") as file:
            batch = dict(file)
        if "labels" in batch:
            return trainer(batch)
        length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
        return lambda: ib.generate_ids(model, batch, num_beams=1, do_sample=False, **length)

    def run(name: str, calls: int) -> dict[str, float]:
        return timed(lambda: start(name)(), calls) | counts

    serve(run)


def measure(workers: dict[str, Worker], name: str, rounds: int) -> dict[str, Any]:
    """One row of the table. Exits where the two models differ in size."""
    before = {side: worker.ask(name=name, calls=0)["cpu_seconds"] for side, worker in workers.items()}
    first = {side: worker.ask(name=name, calls=1) for side, worker in workers.items()}
    sizes = {side: (found["trained"], found["frozen"]) for side, found in first.items()}
    if len(set(sizes.values())) > 1:
        sys.exit(f"the sides differ in size (trained, frozen): {sizes}")
    calls = {
        side: max(1, round(SECONDS / worker.ask(name=name, calls=2)["seconds"])) for side, worker in workers.items()
    }
    turns = [
        {side: worker.ask(name=name, calls=calls[side]) for side, worker in workers.items()} for _ in range(rounds)
    ]
    count = ROWS if name == "train" else NEW_TOKENS * int(name.rsplit(" ", 1)[1])
    return {
        "case": name,
        "unit": "samples/s" if name == "train" else "tokens/s",
        "first_call_seconds": {side: first[side]["seconds"] for side in SIDES},
        "first_call_cpu_seconds": {side: first[side]["cpu_seconds"] - before[side] for side in SIDES},
        "peak_bytes": {side: turns[-1][side]["peak_bytes"] for side in SIDES},
        "rates": {side: [count / turn[side]["seconds"] for turn in turns] for side in SIDES},
        "ratios": [turn["KerasHub"]["seconds"] / turn["ours"]["seconds"] for turn in turns],
        "trained": first["ours"]["trained"],
        "frozen": first["ours"]["frozen"],
    }


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


HEAD = """| case | ours | KerasHub | ratio | first call, s (CPU s): ours; KerasHub | peak, MB: ours; KerasHub |
| --- | --- | --- | --- | --- | --- |"""


def line(row: dict[str, Any]) -> str:
    """A row of Markdown: medians, and ranges in brackets."""
    rates = [f"{spread(row['rates'][side], 0)} {row['unit']}" for side in SIDES]
    first = "; ".join(
        f"{row['first_call_seconds'][side]:.1f} ({row['first_call_cpu_seconds'][side]:.1f})" for side in SIDES
    )
    peak = "; ".join(f"{row['peak_bytes'][side] / 1e6:.0f}" for side in SIDES)
    return f"| {row['case']} | {rates[0]} | {rates[1]} | {spread(row['ratios'], 2)} | {first} | {peak} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", action="store_true", help="install the peer first")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-kerashub", help="where the peer is installed")
    parser.add_argument("--family", choices=("t5", "opt"), default="t5", help="of the language model")
    parser.add_argument("--scale", choices=sorted(random_model.SCALES), default="small")
    parser.add_argument("--rounds", type=int, default=5, help="of each side, in turn")
    parser.add_argument("--json", type=Path, help="write the table here, too, with every round")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    if args.make and missing(args.environment):
        make(args.environment)
    if reason := missing(args.environment):
        print(f"KerasHub: skipped, because {reason}")
        return
    with tempfile.TemporaryDirectory() as folder:
        names = write(Path(folder), args.scale, args.family)
        print(f"BLIP-2 {args.family}, {args.scale}; {args.rounds} rounds in turn; {os.cpu_count()} CPU cores; float32")
        peer = (str(args.environment / "bin" / "python"), str(ROOT / "benchmarks" / "kerashub_peer.py"))
        rows = []
        for group in (names[:1], names[1:]):  # a process each, for the peaks
            workers = {
                "ours": Worker(["--worker", folder]),
                "KerasHub": Worker(["--directory", folder], program=peer),
            }
            for name in group:
                rows.append(measure(workers, name, args.rounds))
                if len(rows) == 1:
                    print(f"{rows[0]['trained']:,} trained and {rows[0]['frozen']:,} frozen parameters on both sides")
                    print(HEAD)
                print(line(rows[-1]), flush=True)
            for worker in workers.values():
                worker.close()
    if args.json:
        args.json.write_text(json.dumps({"scale": args.scale, "family": args.family, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
