"""Digits scenes as plain files: python -m instructblip_jax.datasets.digits.plain OUT [--ask single] [--count 600]

The files look like a user's own data: OUT/pictures/*.png, and OUT/train.jsonl, OUT/validation.jsonl and OUT/test.jsonl
with one question per line. They are the same every time. `docs/own_data.md` begins with them.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from instructblip_jax.datasets.digits import scene as scenes
from instructblip_jax.datasets.digits.records import question
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.digits.templates import TEMPLATES

SINGLE = "single"
"""An additional set: scenes of one digit, with questions about its colour and place."""
SHARES = {"train": 1.0, "validation": 0.1, "test": 0.25}
"""Split -> number of its pictures, as a multiple of ``count``."""

QuestionAnswers = tuple[str, tuple[str, ...]]
"""A question and its answers."""


def single(rng: np.random.Generator) -> tuple[scenes.Scene, list[QuestionAnswers]]:
    """A scene of one digit, and two questions about it."""
    row, column = int(rng.integers(2)), int(rng.integers(2))
    colours = tuple(scenes.COLOURS)
    cell = scenes.Cell(
        scenes.ROWS[2][row], scenes.COLUMNS[2][column], colours[int(rng.integers(len(colours)))], int(rng.integers(10))
    )
    questions: list[QuestionAnswers] = [
        ("Which colour is the digit?", (cell.colour,)),
        ("Where is the digit?", (cell.place,)),
    ]
    return scenes.Scene(2, 2, (cell,)), questions


def draw(ask: str, rng: np.random.Generator) -> tuple[scenes.Scene, list[QuestionAnswers]]:
    """A random scene and the questions about it; ``ask`` is `SINGLE` or a digits set."""
    if ask == SINGLE:
        return single(rng)
    scene, (slots, answers) = question(ask, rng)
    return scene, [(TEMPLATES[ask][0].format(**slots), answers)]


def rows(out: Path, ask: str, split: str, count: int) -> Iterator[dict]:
    """Write the pictures of a split into ``out`` and yield one row per question, in the format of users' own data."""
    for number in range(count):
        name = f"pictures/{ask}_{split}_{number:05}.png"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        scene, questions = draw(ask, rng)
        Image.fromarray(scenes.render(scene, split, rng)).save(out / name)
        for text, answers in questions:
            fields = {"answer": answers[0]} if len(answers) == 1 else {"answers": list(answers)}
            yield {"image": name, "instruction": text, **fields}


def export(out: str | Path, ask: str = SINGLE, count: int = 600) -> dict[str, int]:
    """Write pictures and questions under ``out``. Returns split -> number of questions.

    Raises ValueError for an unknown ``ask``.
    """
    if ask not in (SINGLE, *TASKS):
        raise ValueError(f"--ask {ask}: must be {SINGLE} or one of {', '.join(TASKS)}")
    out = Path(out)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    written = {}
    for split, share in SHARES.items():
        lines = [json.dumps(row) + "\n" for row in rows(out, ask, split, max(1, round(share * count)))]
        (out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        written[split] = len(lines)
    return written


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m instructblip_jax.datasets.digits.plain", description=__doc__)
    parser.add_argument("out", help="directory to write")
    parser.add_argument(
        "--ask", default=SINGLE, help=f"{SINGLE} (one digit per picture), or a digits set, such as count"
    )
    parser.add_argument(
        "--count", type=int, default=600, help="training pictures; a tenth of it for validation, a quarter for test"
    )
    given = parser.parse_args(argv)
    try:
        written = export(given.out, given.ask, given.count)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.out}: " + ", ".join(f"{count} questions in {split}.jsonl" for split, count in written.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
