"""The full-size rehearsal: load a random checkpoint as large as a public one, and answer with it. Not for CI.

    python benchmarks/full_size.py --kind instructblip-flan-t5-xl --directory DIR [--int8] [--json FILE]

The directory is written if it is not there yet: a sparse ``config.json`` as the public one is, bfloat16 weights in
files of at most 5 GB (8 or 16 GB in all), small tokenizers. A fresh process then loads it in bfloat16 and answers
twice. Two figures of its memory are reported: VmHWM, the highest resident size, includes pages of mapped files, which
the system may take back at any time; RssAnon, sampled, is the process's own memory. The files are first dropped from
the page cache.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
import zlib
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

import checkpoints  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
import random_model  # noqa: E402

from instructblip_jax.convert.write import Lazy, as_table, write_shards  # noqa: E402

KINDS = {
    "instructblip-flan-t5-xl": {
        "image_token_index": 32100,
        "text_config": {
            "model_type": "t5",
            "vocab_size": 32128,
            "d_model": 2048,
            "d_kv": 64,
            "d_ff": 5120,
            "num_heads": 32,
            "num_layers": 24,
            "num_decoder_layers": 24,
            "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "gelu",
            "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
        },
    },
    "instructblip-vicuna-7b": {
        "image_token_index": 32001,
        "text_config": {"model_type": "llama", "vocab_size": 32064, "pad_token_id": 32000, "eos_token_id": 1},
    },
}
"""The fields of a public ``config.json``; the others have the classes' defaults."""
SPARSE = {"model_type": "instructblip", "vision_config": {}, "qformer_config": {"vocab_size": 30523}}
SIDE = 224
SHARD_BYTES = 5 * 10**9
TOKENS = 8
INSTRUCTION = "how many digits are there ?"
GB = 1e9


@cache
def noise(scale: float) -> np.ndarray:
    """A few million bfloat16 values of a normal distribution with this deviation."""
    values = np.random.default_rng(0).standard_normal(2**22 + 15, np.float32)
    return (values * np.float32(scale)).astype(ml_dtypes.bfloat16)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The same noise, rolled differently for each name: norms near one, and matrices that keep the variance."""
    if "norm" in name.lower() and name.endswith(".weight"):
        scale = 0.1
    elif name.endswith((".bias", "shared.weight", "embed_tokens.weight", "embeddings.weight")):
        scale = 0.1 if name.endswith(".bias") else 1.0
    else:
        scale = math.prod(shape[1:]) ** -0.5 * (0.125 if ".q.weight" in name else 1.0)  # T5 does not divide its scores
    block = noise(scale)
    values = np.resize(np.roll(block, zlib.crc32(name.encode()) % block.size), shape)
    return values + values.dtype.type(1) if scale == 0.1 and not name.endswith(".bias") else values


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet stays
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill_tokenizer(path: Path, image: int) -> None:
    """Give every id below the image token's a word, so that any answer can be read."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words += [[f"\u2581w{n}", -20.0] for n in range(len(words), image)]
    next(token for token in tokenizer["added_tokens"] if token["content"] == "<image>")["id"] = image
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def write(directory: Path, kind: str) -> None:
    """Write a complete random directory of this kind."""
    random_model.write_processor(directory, SIDE, KINDS[kind]["text_config"]["model_type"])
    fill_tokenizer(directory / "tokenizer.json", KINDS[kind]["image_token_index"])
    (directory / "config.json").write_text(json.dumps(SPARSE | KINDS[kind]), encoding="utf-8")
    tensors = (
        (name, Lazy(shape, np.dtype(ml_dtypes.bfloat16), partial(tensor, name, shape)))
        for name, shape in checkpoints.tensor_shapes(directory).items()
    )
    print(as_table(write_shards(directory, tensors, SHARD_BYTES)), flush=True)


class Memory:
    """The peaks of this process since `reset`: VmHWM as the system keeps it, RssAnon as a thread samples it."""

    def __init__(self) -> None:
        self.anonymous = 0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self.anonymous = max(self.anonymous, self._field("RssAnon"))
            time.sleep(0.02)

    @staticmethod
    def _field(name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    def reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        self.anonymous = self._field("RssAnon")

    def peaks(self) -> dict[str, int]:
        self.anonymous = max(self.anonymous, self._field("RssAnon"))
        return {"resident": self._field("VmHWM"), "anonymous": self.anonymous, "after": self._field("RssAnon")}


def rehearse(directory: Path, int8: bool) -> dict:
    """Load and answer: seconds, bytes, peaks. For a fresh process."""
    import instructblip_jax as ib

    memory = Memory()
    begun = time.perf_counter()
    model = ib.InstructBlip.from_pretrained(directory, dtype="bfloat16", int8=int8)
    out = {"load_seconds": time.perf_counter() - begun, "load": memory.peaks()}
    out["weights"] = sum(x.nbytes for x in (model.train | model.frozen).values())
    print(f"loaded {out}", file=sys.stderr, flush=True)
    processor = ib.Processor.from_pretrained(directory)
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    memory.reset()
    for name in ("first_answer_seconds", "next_answer_seconds"):
        begun = time.perf_counter()
        out["answer"] = ib.generate(
            model, processor, [picture], INSTRUCTION, max_new_tokens=TOKENS, min_new_tokens=TOKENS
        )[0]
        out[name] = time.perf_counter() - begun
    return out | {"answering": memory.peaks()}


def report(out: dict) -> str:
    """The figures as text."""
    weights = out["weights"]
    lines = [
        f"weights in memory        {weights / GB:8.2f} GB",
        f"loading                  {out['load_seconds']:8.1f} s",
    ]
    for part in ("load", "answering"):
        for kind in ("resident", "anonymous", "after"):
            size = out[part][kind]
            words = f"{part}, {'anonymous ' if kind == 'after' else 'peak '}{kind}"
            lines.append(f"{words:25s}{size / GB:8.2f} GB, {size / weights:.3f} of the weights")
    lines.append(f"first answer             {out['first_answer_seconds']:8.1f} s, with compilation; {TOKENS} tokens")
    lines.append(f"next answer              {out['next_answer_seconds']:8.1f} s: {out['answer']!r}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(KINDS), default="instructblip-flan-t5-xl")
    parser.add_argument("--directory", type=Path, required=True, help="written if it has no config.json")
    parser.add_argument("--int8", action="store_true", help="keep the language model's matrices as int8")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(rehearse(args.directory, args.int8)))
        return
    if not (args.directory / "model.safetensors.index.json").is_file():
        write(args.directory, args.kind)
    for path in args.directory.glob("*.safetensors"):
        forget(path)
    command = [sys.executable, __file__, "--worker", "--directory", str(args.directory), *["--int8"] * args.int8]
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}  # some keep freed memory
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the process that loads ended with {done.returncode}")
    out = {"kind": args.kind, "int8": args.int8} | json.loads(done.stdout)
    print(report(out))
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
