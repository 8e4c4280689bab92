"""Rank a hundred candidate answers: `ib.rank`, a forward pass for each, and the same in transformers on PyTorch.

    python benchmarks/rank.py [--family t5|llama] [--scale small|tiny] [--vocab 512] [--rounds 5] [--json FILE]
    python benchmarks/rank.py --model DIR

One picture, one instruction. `ib.rank` encodes them once and then scores all candidates; its time includes everything
from the picture and the texts on, while the separate passes are given prepared batches. Compilation is not timed. The
sides have a process each and take turns; PyTorch gets the number of threads with which it is faster, one or all. All
three must give the same log-likelihoods.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np  # noqa: E402
import random_model  # noqa: E402
from workers import Worker, fewest_seconds, serve  # noqa: E402

import instructblip_jax as ib  # noqa: E402

MODES = {"rank": "ib.rank", "ours": "one pass each, ours", "theirs": "one pass each, PyTorch"}
CANDIDATES = [f"{n} and {m}" for n in range(10) for m in range(10)]
INSTRUCTION = "which two digits are in the picture, from left to right? answer with both of them."
TOLERANCE = 1e-3
"""The largest difference between two log-likelihoods that count as equal."""


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)


def score(logits: np.ndarray, labels: np.ndarray) -> float:
    """logits [T, V], labels [T] -> the log-likelihood of the labels that are not -100."""
    kept = labels != -100
    logits = logits[kept].astype(np.float64)
    chosen = np.take_along_axis(logits, labels[kept][:, None], axis=1)[:, 0]
    return float((chosen - np.log(np.exp(logits).sum(1))).sum())


def separate(directory: Path) -> list[dict[str, np.ndarray]]:
    """A prepared batch of one row for every candidate."""
    processor = ib.Processor.from_pretrained(directory)
    return [processor([picture()], [INSTRUCTION], [text]) for text in CANDIDATES]


def ours(directory: Path) -> dict[str, Any]:
    """Mode -> a function that scores all candidates."""
    model, processor = (
        ib.InstructBlip.from_pretrained(directory, dtype="float32"),
        ib.Processor.from_pretrained(directory),
    )
    batches, shift = separate(directory), model.config.decoder_only

    def one(batch: dict[str, np.ndarray]) -> float:
        logits, labels = np.asarray(model(batch))[0], batch["labels"][0]
        return score(logits[:-1], labels[1:]) if shift else score(logits, labels)

    return {
        "rank": lambda: ib.rank(model, processor, [picture()], [INSTRUCTION], CANDIDATES)[0].tolist(),
        "ours": lambda: [one(batch) for batch in batches],
    }


def theirs(directory: Path) -> dict[str, Any]:
    """The same for PyTorch."""
    import reference

    torch = reference.torch
    model = reference.load(directory, dtype=torch.float32, attn_implementation=None)
    batches = separate(directory)
    shift = not model.config.text_config.is_encoder_decoder
    prepared = [reference.inputs(model, batch) for batch in batches]
    if shift:  # theirs stand at the positions of the text alone
        prepared = [{name: x for name, x in inputs.items() if name != "labels"} for inputs in prepared]

    def one(batch: dict[str, np.ndarray], inputs: dict) -> float:
        labels = batch["labels"][0]
        logits = model(**inputs).logits[0, -len(labels) :].numpy()
        return score(logits[:-1], labels[1:]) if shift else score(logits, labels)

    def run(count: int = len(CANDIDATES)) -> list[float]:
        with torch.no_grad():
            return [one(*pair) for pair in list(zip(batches, prepared, strict=True))[:count]]

    def seconds() -> float:
        begun = time.perf_counter()
        run(10)
        return time.perf_counter() - begun

    run(1)
    fewest_seconds(torch.set_num_threads, seconds)
    return {"theirs": run}


def work(side: str, directory: Path) -> None:
    """Serve as a worker: a mode -> seconds and scores."""
    ways = {"ours": ours, "theirs": theirs}[side](directory)

    def run(way: str) -> dict[str, Any]:
        begun = time.perf_counter()
        scores = ways[way]()
        return {"seconds": time.perf_counter() - begun, "scores": scores}

    serve(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    random_model.add_flags(parser)
    parser.add_argument("--rounds", type=int, default=5, help="of each way, in turn")
    parser.add_argument("--json", type=Path, help="write the figures here, too, with every round")
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.model)
        return
    with random_model.chosen(args) as (model, name):
        print(f"{name}; {len(CANDIDATES)} candidates; {args.rounds} rounds; {os.cpu_count()} CPU cores; float32")
        workers = {side: Worker(["--worker", side, "--model", str(model)]) for side in ("ours", "theirs")}
        worker_of = {"rank": workers["ours"], **workers}
        first = {way: worker_of[way].ask(way=way) for way in MODES}
        rounds = [{way: worker_of[way].ask(way=way)["seconds"] for way in MODES} for _ in range(args.rounds)]
        for worker in workers.values():
            worker.close()
    for way in ("ours", "theirs"):
        gap = np.abs(np.subtract(first[way]["scores"], first["rank"]["scores"])).max()
        if not gap < TOLERANCE:
            sys.exit(f"{MODES[way]}: log-likelihoods differ from those of ib.rank by {gap}")
    print("| way | seconds | cost of ib.rank next to it |\n| --- | --- | --- |")
    for way, title in MODES.items():
        seconds = [turn[way] for turn in rounds]
        ratios = [turn["rank"] / turn[way] for turn in rounds]
        print(
            f"| {title} | {statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f}) "
            f"| {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}) |"
        )
    if args.json:
        out = {"model": name, "seconds": rounds, "first": {way: first[way]["seconds"] for way in MODES}}
        args.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
