"""A tiny model directory over the digits world's own words, and tiny prepared sets: what commands need to run at all.

The weights are random (`checkpoints.py`); tokenizers and image processor are real ones in the public layout.
"""

import json
import sys
from pathlib import Path

import checkpoints

from instructblip_jax.convert.layouts.hf_kosmos import BOUNDARIES
from instructblip_jax.convert.vocabulary import CHUNK, for_language_model, with_boundaries, with_image, with_mark
from instructblip_jax.datasets.digits.records import make
from instructblip_jax.datasets.prepare import write
from instructblip_jax.processors.idefics import FAKE
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD

ROOT = Path(__file__).parents[1]
GOLDENS = ROOT / "tests" / "goldens"
SHIPPED = ROOT / "instructblip_jax" / "assets" / "digits"
SIZE = 24  # pixels along a side
WITH_IMAGES = {
    "llava": lambda directory: with_image(directory, "LlavaProcessor"),
    "frozen": with_mark,
    "kosmos-1": lambda directory: with_boundaries(directory, BOUNDARIES),
    "flamingo": lambda directory: with_mark(directory, CHUNK),
    "idefics": lambda directory: with_mark(directory, FAKE),
}
"""Systems whose tokenizer is LLaMA's with tokens for pictures -> how they are added."""


def write_tokenizers(directory: Path, kind: str = "instructblip") -> tuple[int, int]:
    """The digits world's tokenizers; returns the sizes of the language model's and the Q-Former's vocabulary."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from digits_tokenizers import write_llama, write_qformer, write_t5
    finally:
        sys.path.pop(0)
    if kind == "llama":
        return write_llama(directory).get_vocab_size(), 0
    if kind == "x-instructblip":
        write_llama(directory)
        vocabulary = for_language_model(directory, "llama", "", mark=False)
        vocabulary.write(directory)
        return vocabulary.size, write_qformer(directory / "qformer_tokenizer").get_vocab_size()
    if kind in WITH_IMAGES:
        write_llama(directory)
        vocabulary = WITH_IMAGES[kind](directory)
        vocabulary.write(directory)
        return vocabulary.size, 0
    words = write_t5(directory).get_vocab_size()
    return words, write_qformer(directory / "qformer_tokenizer").get_vocab_size() if kind == "instructblip" else 0


def write_processor(directory: Path, kind: str = "instructblip") -> dict:
    """Everything but the weights; returns the ``config.json`` that was written."""
    words, qformer_words = write_tokenizers(directory, kind)
    preprocessor = {
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "size": {"height": SIZE, "width": SIZE},
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    sizes = {
        "num_query_tokens": 4,
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": 8,
        },
        "qformer_config": {
            "vocab_size": max(qformer_words, 1),
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
        },
        "text_config": checkpoints.TINY["text_config"]
        | {"vocab_size": words + 1, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1}
        | {"num_decoder_layers": 1},
    }
    raw = checkpoints.config_json(kind, sizes)
    (directory / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return raw


def write_model(directory: Path, kind: str = "instructblip", seed: int = 0) -> Path:
    """A whole model directory of about 100 kB."""
    directory.mkdir(parents=True, exist_ok=True)
    return checkpoints.write(directory, write_processor(directory, kind), seed=seed)


def write_sets(out: Path, sizes: dict[str, int], evaluated: int = 8, make=make) -> Path:
    """Digits sets with so many training records each, and ``evaluated`` ones in the other splits."""
    for name, size in sizes.items():
        splits = {"train": size} if size else {}
        splits |= {"validation": evaluated, "test": evaluated}
        write.write(
            out, name, {split: lambda s=split, n=name, c=count: make(n, s, 0, c) for split, count in splits.items()}
        )
    return out
