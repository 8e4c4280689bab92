"""The train step compared with PyTorch: same checkpoint, batch and AdamW settings, float32, on this machine's CPU.

    python benchmarks/train_step.py [--scale small|tiny] [--batch 16] [--rounds 7]

PyTorch's side is transformers' model as the original trains it: towers frozen (they take no gradients, and their
dropout is off), the Q-Former with its dropout, AdamW over Q-Former, query tokens and projection. Each side has a
process of its own; they take turns, so that both meet the same conditions and only one works at a time. The first
steps (compilation, allocation) are not counted. PyTorch gets the number of threads with which it is faster, one or all,
because on a busy machine its threads wait for one another.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

import checkpoints  # noqa: E402
from random_model import SCALES  # noqa: E402
from workers import Worker, fewest_seconds, serve  # noqa: E402

from instructblip_jax.train.optimizer import OptimConfig  # noqa: E402

TEXT, ANSWER = 24, 12
OPTIM = OptimConfig(learning_rate=1e-4, warmup_steps=1)
WARM_UP, SECONDS = 4, 2.0  # uncounted steps; the least a round should take


def ours(directory: Path, batch: dict):
    """A function that makes one step and returns its loss."""
    import jax

    import instructblip_jax as ib
    from instructblip_jax.mesh import put_batch, replicate
    from instructblip_jax.systems.build import merge
    from instructblip_jax.train.optimizer import optimizer
    from instructblip_jax.train.step import init_state, make_step

    model = ib.InstructBlip.from_pretrained(directory, dtype="float32")
    tx = optimizer(OPTIM, 10_000)
    state = replicate(model.mesh, init_state(model.train, tx))
    step = make_step(partial(merge, model.graph), tx, seed=0, compiler_options=model.step_options)

    def one() -> float:
        nonlocal state
        with jax.set_mesh(model.mesh):
            state, metrics = step(state, model.frozen, put_batch(model.mesh, batch))
            return float(jax.block_until_ready(metrics["loss"]))

    return one


def theirs(directory: Path, batch: dict):
    """The same for PyTorch."""
    import reference

    model = reference.load(directory, dtype=reference.torch.float32, attn_implementation=None)
    optimizer = reference.adamw(reference.freeze(model), OPTIM)
    model.qformer.train()  # the rest stays in evaluation mode

    def one() -> float:
        return reference.train_step(model, optimizer, reference.inputs(model, batch))[0]

    def seconds() -> float:
        one()
        begun = time.perf_counter()
        for _ in range(WARM_UP):
            one()
        return time.perf_counter() - begun

    threads = fewest_seconds(reference.torch.set_num_threads, seconds)
    print(f"PyTorch on {threads} threads", file=sys.stderr)
    return one


def work(side: str, directory: Path, rows: int) -> None:
    """Serve as a worker: a number of steps -> seconds a step and the last loss."""
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    batch = checkpoints.batch(raw, rows=rows, text=TEXT, answer=ANSWER)
    one = {"ours": ours, "theirs": theirs}[side](directory, batch)

    def run(steps: int) -> dict[str, float]:
        begun = time.perf_counter()
        for _ in range(steps):
            loss = one()
        return {"seconds": (time.perf_counter() - begun) / steps, "loss": loss}

    serve(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--rounds", type=int, default=7, help="of each side, in turn")
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.directory, args.batch)
        return
    with tempfile.TemporaryDirectory() as directory:
        checkpoints.write(Path(directory), checkpoints.config_json(sizes=SCALES[args.scale]), seed=0)
        workers, first = {}, {}
        for side in ("ours", "theirs"):
            workers[side] = Worker(["--worker", side, "--directory", directory, "--batch", str(args.batch)])
            first[side] = workers[side].ask(steps=1)
        steps = {
            side: max(1, round(SECONDS / worker.ask(steps=WARM_UP)["seconds"])) for side, worker in workers.items()
        }
        rounds = [{side: worker.ask(steps=steps[side]) for side, worker in workers.items()} for _ in range(args.rounds)]
        for worker in workers.values():
            worker.close()
    print(f"{args.scale}, {args.batch} rows, {args.rounds} rounds in turn, {os.cpu_count()} CPU cores, float32")
    for side, name in (("ours", "instructblip_jax"), ("theirs", "PyTorch")):
        rates = [args.batch / r[side]["seconds"] for r in rounds]
        print(
            f"{name:18s}{statistics.median(rates):8.1f} samples/s (median; {min(rates):.1f} to {max(rates):.1f}), "
            f"loss {first[side]['loss']:.3f} to {rounds[-1][side]['loss']:.3f}"
        )
    ratios = [r["theirs"]["seconds"] / r["ours"]["seconds"] for r in rounds]
    print(f"ratio             {statistics.median(ratios):8.2f} (median; {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
