"""The input path compared with a plain one of PIL and PyTorch: same JPEG photographs, same cores of this machine.

    python benchmarks/input.py [--pictures 384] [--width 640] [--cores 1] [--batch 32] [--rounds 7] [--json FILE]

All sides decode, resize to 224 x 224 (bicubic), tokenise an instruction twice and a response, and make batches. Ours
read a prepared set through the training loader: as it is (simplejpeg), with Pillow alone, and with
`config.data.resize` = "fast". The other is a `Dataset` over files and a `DataLoader` with one worker process a core,
each on one thread; it normalises there, where ours leave that to the step. Each side has a process of its own, pinned
to the same cores; they take turns, so that only one works at a time. The pixels are compared before anything is timed.

Then the train step of a random model is timed, from pixels and from cached image features in turn.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from workers import Worker, serve  # noqa: E402

SIDE = 224
SIDES = {"exact": "ours", "pillow": "ours, Pillow alone", "fast": "ours, fast", "theirs": "PIL + DataLoader"}
TEXTS = [("which digit ?", "1"), ("read the top row", "1 2 3"), ("how many digits are there ?", "4")]
AHEAD = 9  # batches that are taken before the clock starts: more than either side has ready


def photograph(rng: np.random.Generator, wide: int = 640) -> bytes:
    """A JPEG of about ``wide`` x 3/4 ``wide``: smooth colours, shapes with edges, the noise of a sensor."""
    width, height = (int(rng.uniform(0.875, 1.0625) * side) for side in (wide, 0.75 * wide))
    image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(24):
        x, y, w, h = (int(v) for v in rng.integers(0, (width, height, wide // 4, wide // 4)))
        shape = draw.ellipse if rng.integers(2) else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(map(int, rng.integers(0, 256, 3))))
    noise = rng.normal(0, 5, (height, width, 3))
    buffer = io.BytesIO()
    noisy = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write(root: Path, count: int, wide: int) -> int:
    """Write pictures as files and as a prepared set, and a model without weights; returns the files' bytes."""
    import random_model

    from instructblip_jax.data.record import Medium, Record
    from instructblip_jax.datasets.prepare.write import write

    random_model.write_processor(root / "model", SIDE, "t5")
    path = root / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["vision_config"]["image_size"] = SIDE
    path.write_text(json.dumps(config), encoding="utf-8")
    rng = np.random.default_rng(0)
    (root / "files").mkdir()
    for n in range(count):
        (root / "files" / f"{n:05d}.jpg").write_bytes(photograph(rng, wide))
    files = sorted((root / "files").iterdir())

    def records():
        for n, file in enumerate(files):
            text, answer = TEXTS[n % len(TEXTS)]
            uid = f"photos/train/{n}"
            yield Record(
                uid, "photos", "train", "vqa", (Medium("image", file.read_bytes()),), {}, (answer,), instruction=text
            )

    write(root / "sets", "photos", {"train": records})
    return sum(file.stat().st_size for file in files)


class Ours:
    """The training loader over the prepared set, in one of three ways."""

    def __init__(self, root: Path, batch: int, cores: int, way: str):
        from instructblip_jax.data.loader import training_batches
        from instructblip_jax.data.prepared import open_set
        from instructblip_jax.processor import Processor
        from instructblip_jax.processors import jpeg

        if way == "pillow":
            jpeg.same_bits = lambda: False
        self.processor = Processor.from_pretrained(root / "model").resizing("fast" if way == "fast" else "exact")
        options = {"batch_size": batch, "instruction_lengths": (32,), "response_lengths": (16,), "seed": 0}
        sources = {"photos": open_set(root / "sets", "photos", "train")}
        self.batches = training_batches(sources, {"photos": 1.0}, self.processor, {}, **options)

    def begin(self):
        return self.batches

    def rest(self) -> None:
        """Wait until reading ahead has stopped."""
        before = -1.0
        while time.process_time() - before > 0.02:
            before = time.process_time()
            time.sleep(0.2)

    def pixels(self, data: bytes) -> np.ndarray:
        return self.processor.image(data)


class Theirs:
    """The plain pipeline, as it is often written."""

    def __init__(self, root: Path, batch: int, cores: int):
        import torch
        import transformers

        from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD

        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        mean, std = (torch.tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
        load = transformers.PreTrainedTokenizerFast
        main = load(tokenizer_file=str(root / "model" / "tokenizer.json"), pad_token="<pad>")
        other = load(tokenizer_file=str(root / "model" / "qformer_tokenizer" / "tokenizer.json"), pad_token="[PAD]")
        files = sorted((root / "files").iterdir())

        def transform(image: Image.Image):
            image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
            return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)

        class Photographs(torch.utils.data.Dataset):
            def __len__(self):
                return 1_000_000

            def __getitem__(self, n):
                n %= len(files)
                with Image.open(files[n]) as image:
                    return transform(image), *TEXTS[n % len(TEXTS)]

        def collated(rows):
            pictures, texts, answers = zip(*rows, strict=True)
            pad = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
            return {
                "pixel_values": torch.stack(pictures),
                "input": dict(main(list(texts), max_length=32, **pad)),
                "qformer": dict(other(list(texts), max_length=32, **pad)),
                "labels": main(list(answers), max_length=16, **pad)["input_ids"],
            }

        self.transform = transform
        self.loader = partial(
            torch.utils.data.DataLoader, Photographs(), batch, num_workers=cores, collate_fn=collated, shuffle=True
        )

    def begin(self):
        self.iterator = iter(self.loader())
        return self.iterator

    def rest(self) -> None:
        """End the worker processes."""
        del self.iterator

    def pixels(self, data: bytes) -> np.ndarray:
        return self.transform(Image.open(io.BytesIO(data))).permute(1, 2, 0).numpy()


def work(side: str, root: Path, batch: int, cores: int) -> None:
    """Serve as a worker: a number of batches -> pictures a second."""
    path = Theirs(root, batch, cores) if side == "theirs" else Ours(root, batch, cores, side)

    def run(batches: int = 0, picture: str = "") -> Any:
        if picture:
            return path.pixels(Path(picture).read_bytes()).tolist()
        stream = path.begin()
        for _ in range(AHEAD):
            next(stream)
        begun = time.perf_counter()
        for _ in range(batches):
            next(stream)
        seconds = time.perf_counter() - begun
        path.rest()
        return batches * batch / seconds

    serve(run)


def measure_input(args: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second a core of each side, round by round."""
    with tempfile.TemporaryDirectory() as made:
        size = write(Path(made), args.pictures, args.width)
        flags = ["--directory", made, "--batch", str(args.batch), "--cores", str(args.cores)]
        workers = {side: Worker(["--worker", side, *flags]) for side in SIDES}
        picture = str(Path(made) / "files" / "00000.jpg")
        pixels = {side: np.array(worker.ask(picture=picture)) for side, worker in workers.items()}
        apart = {side: float(np.abs(x - pixels["theirs"]).max()) for side, x in pixels.items()}
        if max(apart["exact"], apart["pillow"]) > 1e-5:
            sys.exit(f"the sides make other pixels of the same picture: they differ by {apart}")
        rounds = []
        for n in range(args.rounds):
            order = list(SIDES)[:: 1 if n % 2 else -1]
            rates = {side: workers[side].ask(batches=args.batches) / args.cores for side in order}
            rounds.append({side: rates[side] for side in SIDES})
            print(f"round {n + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
        for worker in workers.values():
            worker.close()
    return {
        "kilobytes": size / args.pictures / 1e3,
        "pixel_differences": apart,
        "rates": {side: [r[side] for r in rounds] for side in SIDES},
        "ratios": {side: [r[side] / r["theirs"] for r in rounds] for side in SIDES if side != "theirs"},
    }


def measure_step(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a train step from pixels and from cached features, round by round."""
    import checkpoints
    import jax
    import random_model

    import instructblip_jax as ib
    from instructblip_jax.mesh import put_batch, replicate
    from instructblip_jax.systems.build import merge
    from instructblip_jax.train.optimizer import OptimConfig, optimizer
    from instructblip_jax.train.step import init_state, make_step

    with tempfile.TemporaryDirectory() as made:
        raw = checkpoints.config_json(sizes=random_model.SCALES[args.scale])
        model = ib.InstructBlip.from_pretrained(checkpoints.write(Path(made), raw, seed=0), dtype="float32")
    pixels = checkpoints.batch(raw, rows=16, text=24, answer=12)
    run = jax.jit(lambda train, frozen, batch: merge(model.graph, train, frozen).features(batch))
    (tokens,) = run(model.train, model.frozen, pixels).values()
    batches = {"pixels": pixels, "features": {k: x for k, x in pixels.items() if k != "pixel_values"}}
    batches["features"]["image_features"] = np.asarray(tokens)
    tx = optimizer(OptimConfig(learning_rate=1e-4, warmup_steps=1), 10_000)
    step = make_step(partial(merge, model.graph), tx, seed=0)
    state = replicate(model.mesh, init_state(model.train, tx))

    def steps(kind: str, count: int) -> float:
        nonlocal state
        begun = time.perf_counter()
        with jax.set_mesh(model.mesh):
            for _ in range(count):
                state, metrics = step(state, model.frozen, put_batch(model.mesh, batches[kind]))
                jax.block_until_ready(metrics["loss"])
        return (time.perf_counter() - begun) / count

    for kind in batches:
        steps(kind, 3)
    rounds = [{kind: steps(kind, 5) for kind in batches} for _ in range(args.rounds)]
    return {kind: [r[kind] for r in rounds] for kind in batches} | {
        "ratios": [r["pixels"] / r["features"] for r in rounds]
    }


def spread(values: list[float], digits: int = 1) -> str:
    """Median and range."""
    return f"{statistics.median(values):9.{digits}f} (median; {min(values):.{digits}f} to {max(values):.{digits}f})"


def report_input(out: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures as text."""
    lines = [
        f"{args.pictures} pictures of {out['kilobytes']:.0f} kB, {args.rounds} rounds in turn, {args.cores} core(s)",
        *(f"{name:18s}{spread(out['rates'][side])} pictures/s a core" for side, name in SIDES.items()),
        *(
            f"{SIDES[side]:18s}{spread(ratios, 2)} times {SIDES['theirs']}; normalised pixels differ by at most "
            f"{out['pixel_differences'][side]:.1e}"
            for side, ratios in out["ratios"].items()
        ),
    ]
    return "\n".join(lines)


def report_step(out: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures as text."""
    lines = [
        f"train step, random {args.scale} model, 16 rows, float32",
        *(f"{kind:18s}{spread([16 / s for s in out[kind]])} samples/s" for kind in ("pixels", "features")),
        f"{'speed-up':18s}{spread(out['ratios'], 2)}",
    ]
    return "\n".join(lines)


PARTS = {"input": (measure_input, report_input), "step": (measure_step, report_step)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=384)
    parser.add_argument("--width", type=int, default=640, help="of the pictures, about; the height is 3/4 of it")
    parser.add_argument("--cores", type=int, default=1, help="of this machine, for either side")
    parser.add_argument("--batch", type=int, default=32, help="rows")
    parser.add_argument("--batches", type=int, default=24, help="a round")
    parser.add_argument("--rounds", type=int, default=7, help="of each side, in turn")
    parser.add_argument("--scale", choices=("tiny", "small"), default="small", help="of the train step's random model")
    parser.add_argument("--only", choices=tuple(PARTS), help="one half of it")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--worker", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])  # threads and processes inherit it
        work(args.worker, args.directory, args.batch, args.cores)
        return
    out = {}
    for part in [args.only] if args.only else PARTS:
        measure, report = PARTS[part]
        out[part] = measure(args)
        print(report(out[part], args), flush=True)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
