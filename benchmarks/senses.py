"""Digits in one sense and in two: python benchmarks/senses.py MODEL [MODEL ...] [--json OUT.json] [--count 200]

Each MODEL is an X-InstructBLIP of the digits world, put together of what four runs of configs/digits_x.py trained; the
MODELs differ in their runs' seed. All are asked the test questions of `datasets/digits/senses.py`. Prints Markdown
tables of exact match in percent, means over the models, with 95 % intervals (bootstrap over models and questions).
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import instructblip_jax as ib
from instructblip_jax.data.record import Record
from instructblip_jax.datasets.digits import senses, strokes
from instructblip_jax.evals.bootstrap import mean_of_runs

MODALITIES = {"seen": "image", "heard": "audio", "filmed": "video", "felt": "pc"}
BATCH = 128
"""Rows of every batch, the last ones of which may be there for nothing: so that few programs are compiled."""


def shown(record: Record) -> list[Any]:
    """The media of a record, one entry for each of its senses: bytes, or the frames of a film."""
    found, media = [], [medium.data for medium in record.media]
    for sense in record.meta["senses"]:
        count = strokes.FRAMES if sense == "filmed" else 1
        one, media = media[:count], media[count:]
        found.append(one if sense == "filmed" else one[0])
    return found


def media_of(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The media of records that show the same senses in the same order, as `ib.generate` takes them."""
    order = records[0].meta["senses"]
    rows = [shown(record) for record in records]
    if len(set(order)) < len(order):
        return {MODALITIES[order[0]]: rows}
    return {MODALITIES[sense]: [row[n] for row in rows] for n, sense in enumerate(order)}


def batches(name: str, count: int) -> Iterator[list[Record]]:
    """The first test records of a set, in batches of the same order of senses."""
    by_order: dict[tuple[str, ...], list[Record]] = {}
    for record in senses.make(name, "test", 0, count):
        by_order.setdefault(tuple(record.meta["senses"]), []).append(record)
    for own in by_order.values():
        yield from (own[at : at + BATCH] for at in range(0, len(own), BATCH))


def right(model: Any, processor: Any, name: str, count: int) -> np.ndarray:
    """True for the questions of a set that a model answers exactly, bool [count], in the same order for every model."""
    found: list[bool] = []
    for records in batches(name, count):
        filled = [*records, *[records[-1]] * (BATCH - len(records))]
        asked = [record.instruction for record in filled]
        answers = ib.generate(model, processor, None, asked, media=media_of(filled), num_beams=1, max_new_tokens=4)
        found += [answer.strip() in record.answers for answer, record in zip(answers, records, strict=False)]
    return np.array(found)


def cell(runs: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """The mean of several models in percent, and the ends of its interval."""
    statistics = [lambda weights, own=own: weights @ own / weights.sum(1) for own in runs]
    low, high = mean_of_runs(statistics, len(runs[0])) or (float("nan"),) * 2
    return 100 * float(np.mean(runs)), 100 * low, 100 * high


def text(one: tuple[float, float, float]) -> str:
    return f"{one[0]:.1f} ({one[1]:.1f} to {one[2]:.1f})"


def tables(cells: Mapping[str, tuple[float, float, float]]) -> str:
    """One table of single senses, one of pairs."""
    lines = ["| sense | which digit | yes or no |", "|---|---:|---:|"]
    lines += [f"| {name} | {text(cells[name])} | {text(cells[f'{name}{senses.FACTS}'])} |" for name in senses.SENSES]
    lines += ["", "| two of | which of the two | the same digit |", "|---|---:|---:|"]
    for a, b in senses.PAIRS:
        pair = f"{a}_{b}"
        lines.append(f"| {a} and {b} | {text(cells[senses.LARGER + pair])} | {text(cells[senses.SAME + pair])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=200, help="questions of a set")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = [*senses.SINGLE, *senses.CROSS]
    runs: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for directory in args.models:
        model = ib.from_pretrained(directory, dtype="float32")
        processor = ib.Processor.from_pretrained(directory)
        for name in names:
            runs[name].append(right(model, processor, name, args.count))
            print(f"{directory} {name}: {100 * runs[name][-1].mean():.1f}", flush=True)
    cells = {name: cell(own) for name, own in runs.items()}
    print(tables(cells))
    if args.json:
        found = {name: {"value": v, "low": low, "high": high} for name, (v, low, high) in cells.items()}
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
