"""Complete random model directories, with tokenizers, for benchmarks that are given no model."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import checkpoints  # noqa: E402
import toys  # noqa: E402

from instructblip_jax.convert.layouts import hf_instructblip  # noqa: E402

SCALES = {
    "tiny": checkpoints.TINY,
    "small": {
        "num_query_tokens": 32,
        "vision_config": {
            "hidden_size": 176,
            "intermediate_size": 768,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "image_size": 112,
            "patch_size": 14,
        },
        "qformer_config": {
            "vocab_size": 400,
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "max_position_embeddings": 512,
        },
        "text_config": checkpoints.TINY["text_config"]
        | {"d_model": 192, "d_kv": 32, "d_ff": 480, "num_heads": 8, "num_layers": 5, "num_decoder_layers": 4}
        | {"vocab_size": 512},
    },
}
"""Sizes of models with FlanT5's kind of language model."""
LLAMA = {
    "tiny": {"hidden_size": 64, "intermediate_size": 136, "num_hidden_layers": 3, "num_attention_heads": 4},
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 5, "num_attention_heads": 8},
}
"""Scale -> the sizes of a LLaMA in its place."""
WORDS = 512
"""Default rows of the embeddings: enough for the digits world's tokenizers."""


def write_processor(directory: Path, side: int, family: str) -> None:
    """Tokenizers with the digits world's few words, and an image processor for pictures of ``side`` pixels."""
    directory.mkdir(parents=True, exist_ok=True)
    toys.write_processor(directory)
    path = directory / "preprocessor_config.json"
    size = {"size": {"height": side, "width": side}}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | size), encoding="utf-8")
    if family != "t5":  # a prompt that an answer follows begins with the special token
        path = directory / "tokenizer.json"
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        tokenizer["post_processor"]["single"].reverse()
        path.write_text(json.dumps(tokenizer), encoding="utf-8")


def write(directory: Path, scale: str, family: str, vocab: int = WORDS) -> Path:
    """Write a directory of one of the `SCALES`; ``family`` is t5 or llama, ``vocab`` the language model's rows."""
    sizes = dict(SCALES[scale])
    write_processor(directory, sizes["vision_config"]["image_size"], family)
    sizes["qformer_config"] = sizes["qformer_config"] | {"vocab_size": WORDS, "max_position_embeddings": 512}
    if family == "llama":
        ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
        sizes["text_config"] = {"model_type": "llama", "tie_word_embeddings": False, **ids, **LLAMA[scale]}
    sizes["text_config"] = sizes["text_config"] | {"vocab_size": vocab}
    return checkpoints.write(directory, checkpoints.config_json(sizes=sizes))


def batch(directory: Path, rows: int, text: int) -> dict[str, np.ndarray]:
    """A batch for any model directory: in every row ``text`` random tokens of prompt and a random picture."""
    config = hf_instructblip.read_config(directory / "config.json")
    rng = np.random.default_rng(rows)

    def ids(name: str, high: int) -> dict[str, np.ndarray]:
        mask = name.replace("input_ids", "attention_mask")
        return {name: rng.integers(4, high, (rows, text), np.int32), mask: np.ones((rows, text), np.int32)}

    side = config.vision.image_size
    arrays = {"pixel_values": rng.standard_normal((rows, side, side, 3), np.float32)}
    if config.qformer.use_text:
        arrays |= ids("qformer_input_ids", config.qformer.vocab_size)
    # In the public files the image token stands near the end of the vocabulary, the padding token below it or at 0.
    image = config.image_token_id if config.image_token_id > 0 else config.text.vocab_size
    return arrays | ids("input_ids", image - 1)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a benchmark's model."""
    parser.add_argument("--model", type=Path, help="a model directory; by default a random one is made")
    parser.add_argument("--family", choices=("t5", "llama"), default="t5", help="of the random model")
    parser.add_argument("--scale", choices=sorted(SCALES), default="small", help="of the random model")
    parser.add_argument("--vocab", type=int, default=WORDS, help="of the random language model")


@contextmanager
def chosen(args: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The directory that the flags choose, and its name in reports; a random one is deleted afterwards."""
    if args.model:
        yield args.model, str(args.model)
        return
    with tempfile.TemporaryDirectory() as made:
        name = f"random {args.scale} {args.family}, vocabulary of {args.vocab}"
        yield write(Path(made), args.scale, args.family, args.vocab), name
