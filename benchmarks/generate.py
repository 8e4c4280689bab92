"""Generation compared with transformers on PyTorch: same checkpoint, same batch, float32, on this machine's CPU.

    python benchmarks/generate.py [--family t5|llama] [--scale small|tiny] [--vocab 512] [--rounds 5] [--json FILE]
    python benchmarks/generate.py --model DIR

New tokens a second of whole calls (image tower, Q-Former, prompt and every new token) of `ib.generate_ids` and of
transformers' `generate`. All rows write the same number of new tokens, so that both sides do the same work. Each side
has a process of its own; they take turns, so that only one works at a time. The first call of a row, in which ours is
compiled, is shown apart. PyTorch gets the number of threads with which it is faster, one or all.

The tokens are compared before anything is timed. If greedy search differs, our own log-probabilities of the two tokens
at the first difference must be a tie; beams are compared by the log-probability of the whole answer.
"""

import argparse
import json
import os
import statistics
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np  # noqa: E402
import random_model  # noqa: E402
from workers import Worker, fewest_seconds, serve  # noqa: E402

SIDES = ("ours", "theirs")
CASES = [{"beams": beams, "text": text, "rows": rows} for beams in (1, 5) for text in (16, 128) for rows in (1, 16)]
"""The rows of the table: prompts of ``text`` tokens, batches of ``rows``."""
SECONDS = 1.0  # the least that a round of one side should take
TIE = 1e-3
"""Log-probabilities that differ by less count as equal, because both sides round in float32."""


def options(case: dict[str, int]) -> dict[str, Any]:
    length = case["length"]
    return {"num_beams": case["beams"], "do_sample": False, "max_new_tokens": length, "min_new_tokens": length}


def ours(directory: Path):
    """case -> a function that makes one call; and one that compares answers by their log-probability."""
    import instructblip_jax as ib

    model = ib.InstructBlip.from_pretrained(directory, dtype="float32")

    def start(case: dict[str, int]):
        batch = random_model.batch(directory, case["rows"], case["text"])
        return lambda: ib.generate_ids(model, batch, **options(case))

    def gaps(case: dict[str, int], answers: list) -> list[float]:
        """Two answers a row [2, B, T] -> the log-probability of the first minus that of the second [B]: of the first
        token in which they differ (greedy), or of all tokens (beams)."""
        batch = random_model.batch(directory, case["rows"], case["text"])
        ids = np.array(answers, np.int32).swapaxes(0, 1)
        other = ids[:, 0] != ids[:, 1]
        first = np.arange(ids.shape[2]) == np.where(other.any(1), other.argmax(1), -1)[:, None]
        counted = np.ones_like(other) if case["beams"] > 1 else first
        context = model.prefill(model.encode(batch), batch)
        sums = model.log_likelihood(context, ids, np.repeat(counted[:, None], 2, axis=1))
        return (sums[:, 0] - sums[:, 1]).tolist()

    return start, gaps


def theirs(directory: Path):
    """The same for PyTorch, without the comparison."""
    import reference

    torch = reference.torch
    model = reference.load(directory, dtype=torch.float32, attn_implementation=None)
    ends = model.generation_config.eos_token_id or model.config.text_config.eos_token_id

    def start(case: dict[str, int]):
        inputs = reference.inputs(model, random_model.batch(directory, case["rows"], case["text"]))

        def call() -> np.ndarray:
            with torch.no_grad():
                ids = model.generate(**inputs, **options(case), eos_token_id=ends)
            return ids[:, -case["length"] :].numpy()

        def seconds() -> float:
            begun = time.perf_counter()
            call()
            return time.perf_counter() - begun

        call()
        fewest_seconds(torch.set_num_threads, seconds)
        return call

    return start, None


def work(side: str, directory: Path) -> None:
    """Serve as a worker: a case and a number of calls -> seconds a call, seconds of the first one, and the ids."""
    begin, gaps = {"ours": ours, "theirs": theirs}[side](directory)
    start = cache(lambda case: begin(dict(case)))

    def run(case: dict[str, int], calls: int = 0, compare: list | None = None) -> Any:
        if compare is not None:
            return gaps(case, compare)
        begun = time.perf_counter()
        call = start(tuple(case.items()))
        for _ in range(calls):
            ids = call()
        return {"seconds": (time.perf_counter() - begun) / calls, "ids": ids.tolist()}

    serve(run)


def measure(workers: dict[str, Worker], case: dict[str, int], rounds: int) -> dict[str, Any]:
    """One row of the table. Exits when greedy tokens differ by more than a tie."""
    first = {side: worker.ask(case=case, calls=1) for side, worker in workers.items()}
    pair = [first[side]["ids"] for side in SIDES]
    same = sum(a == b for a, b in zip(*pair, strict=True))
    gaps = workers["ours"].ask(case=case, compare=pair) if same < case["rows"] else [0.0]
    if case["beams"] == 1 and max(map(abs, gaps)) > TIE:
        sys.exit(f"{case}: the tokens differ, and by more than a tie: {gaps}")
    once = {side: worker.ask(case=case, calls=1)["seconds"] for side, worker in workers.items()}
    calls = {side: max(1, round(SECONDS / once[side])) for side in SIDES}
    turns = [
        {side: workers[side].ask(case=case, calls=calls[side])["seconds"] for side in SIDES} for _ in range(rounds)
    ]
    tokens = case["rows"] * case["length"]
    return case | {
        "first_call_seconds": first["ours"]["seconds"],
        "same_rows": same,
        "log_probability_gaps": gaps,
        "rates": {side: [tokens / turn[side] for turn in turns] for side in SIDES},
        "ratios": [turn["theirs"] / turn["ours"] for turn in turns],
    }


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


HEAD = """| search | prompt | batch | ours, tokens/s | PyTorch, tokens/s | ratio | first call | same rows |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def line(row: dict[str, Any]) -> str:
    """A row of Markdown: medians, and ranges in brackets."""
    search = f"beam {row['beams']}" if row["beams"] > 1 else "greedy"
    rates = [spread(row["rates"][side], 0) for side in SIDES]
    return (
        f"| {search} | {row['text']} | {row['rows']} | {rates[0]} | {rates[1]} | {spread(row['ratios'], 2)} "
        f"| {row['first_call_seconds']:.1f} s | {row['same_rows']}/{row['rows']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    random_model.add_flags(parser)
    parser.add_argument("--rounds", type=int, default=5, help="of each side, in turn")
    parser.add_argument("--max_new_tokens", type=int, default=32, help="new tokens of every row, neither more nor less")
    parser.add_argument("--json", type=Path, help="write the table here, too, with every round")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.model)
        return
    with random_model.chosen(args) as (model, name):
        print(f"{name}; {args.max_new_tokens} new tokens; {args.rounds} rounds; {os.cpu_count()} CPU cores; float32")
        workers = {side: Worker(["--worker", side, "--model", str(model)]) for side in SIDES}
        print(HEAD)
        rows = []
        for case in CASES:
            rows.append(measure(workers, case | {"length": args.max_new_tokens}, args.rounds))
            print(line(rows[-1]), flush=True)
        for worker in workers.values():
            worker.close()
    if args.json:
        args.json.write_text(json.dumps({"model": str(name), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
