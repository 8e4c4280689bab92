"""The cost of encoding pictures with and without worked examples in the prompt.

    python benchmarks/few_shot.py --model DIR [--questions 128] [--pool 64] [--shots 32] [--json FILE]

A set of random pictures is evaluated by the real code, once without examples and once with them, each question and each
example with a picture of its own. The time in the tower is that of the processor (`time.process_time`), so that other
programs do not count; what is written is one token. The last line is what it would take to encode the pictures of every
prompt anew.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.datasets.prepare.write import write
from instructblip_jax.evals.few_shot.answers import Asking
from instructblip_jax.evals.few_shot.opening import open_task
from instructblip_jax.evals.open_set import open_set
from instructblip_jax.model import Model
from instructblip_jax.processor import Processor
from instructblip_jax.run.evaluation import EvaluationConfig, FewShotConfig

BATCH = 16


def records(split: str, count: int):
    rng = np.random.default_rng(len(split))
    for n in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
        slots = {"question": "how many ?"}
        shown = (Medium(IMAGE, buffer.getvalue()),)
        yield Record(f"own/{split}/{n}", "own", split, "vqa", shown, slots, (str(n % 5),))


class Timed:
    """Stands before a model's `encode`: the pictures and the seconds."""

    def __init__(self, model: Model):
        self.encode, self.pictures, self.seconds = model.encode, 0, 0.0

    def __call__(self, batch, **options):
        begun = time.process_time()
        media = jax.block_until_ready(self.encode(batch, **options))
        self.seconds += time.process_time() - begun
        self.pictures += next(iter(media.values())).shape[0]
        return media


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--pool", type=int, default=64)
    parser.add_argument("--shots", type=int, default=32)
    parser.add_argument("--json")
    args = parser.parse_args()
    model, processor = Model.from_pretrained(args.model, dtype="float32"), Processor.from_pretrained(args.model)
    found = {}
    with tempfile.TemporaryDirectory() as root:
        write(
            root, "own", {"train": lambda: records("train", args.pool), "test": lambda: records("test", args.questions)}
        )
        changes = {"max_new_tokens": 1, "num_beams": 1}
        for shots in (0, args.shots):
            few = FewShotConfig(pool=args.pool, seeds=1, texts=0)
            suite = EvaluationConfig(shots=(shots,), batch_size=BATCH, few_shot=few)
            opened = open_set(root, "own", changes, split=None, max_new_tokens=1)
            task = open_task(root, opened, processor, suite, changes)
            model.encode(processor.stack([processor.media([("image", np.zeros((64, 64, 3), np.uint8))])] * BATCH))
            model.__dict__.pop("encode", None)
            timed = model.encode = Timed(model)  # type: ignore[method-assign]
            begun = time.perf_counter()
            for _ in Asking(model, processor, task).lines({shots: 0}):
                pass
            found[shots] = {
                "pictures_a_question": timed.pictures / args.questions,
                "encoding_seconds_a_question": timed.seconds / args.questions,
                "seconds_a_question": (time.perf_counter() - begun) / args.questions,
            }
            model.__dict__.pop("encode")
    for shots, row in found.items():
        print(f"{shots:3d} shots: " + ", ".join(f"{name} {value:.5f}" for name, value in row.items()))
    ratio = found[args.shots]["encoding_seconds_a_question"] / found[0]["encoding_seconds_a_question"]
    anew = (1 + args.shots) * found[0]["encoding_seconds_a_question"]
    print(f"encoding with {args.shots} shots takes {ratio:.2f} times as long as without")
    print(f"encoding anew for every prompt would take {anew:.5f} s a question")
    if args.json:
        Path(args.json).write_text(json.dumps({"shots": found, "ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
