"""Make the digits world's checkpoint: python tools/digits_towers.py [--out instructblip_jax/assets/digits]

Trains the two frozen towers (`digits_vit.py`, `digits_t5.py`), adds an untrained Q-Former and projection between them,
and writes everything as a Hugging Face InstructBLIP directory. Takes about an hour on two cores. Towers that are in
--cache from an earlier run are not trained again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import digits_t5
import digits_vit
import jax.numpy as jnp
import numpy as np
from digits_tokenizers import write_qformer, write_t5
from flax import nnx
from safetensors.numpy import load_file, save_file

from instructblip_jax.convert import save
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.write import write_shards
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from instructblip_jax.systems.build import flatten
from instructblip_jax.systems.instructblip import InstructBlipSystem

IMAGE, PATCH, WIDTH = 48, 8, 96


def write_configs(out: Path, words: int, qformer_words: int, image_token: int) -> None:
    """Write config.json and the files that belong to it, in the public format."""
    vision = {
        "model_type": "instructblip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE,
        "patch_size": PATCH,
    }
    qformer = {
        "model_type": "instructblip_qformer",
        "vocab_size": qformer_words,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,  # no example is seen often enough to be memorized
        "attention_probs_dropout_prob": 0.0,
    }
    text = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": -(-words // 64) * 64,
        "d_model": WIDTH,
        "d_kv": 24,
        "d_ff": 256,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    processor = "InstructBlipProcessor"
    contents: dict[str, dict[str, Any]] = {
        "config.json": {
            "model_type": "instructblip",
            "architectures": ["InstructBlipForConditionalGeneration"],
            "num_query_tokens": digits_t5.SLOTS,
            "image_token_index": image_token,
            "is_encoder_decoder": True,
            "tie_word_embeddings": False,
            "use_decoder_only_language_model": False,
            "vision_config": vision,
            "qformer_config": qformer,
            "text_config": text,
        },
        "preprocessor_config.json": {
            "image_processor_type": "BlipImageProcessor",
            "processor_class": processor,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            "rescale_factor": 1 / 255,
            "resample": 3,
            "size": {"height": IMAGE, "width": IMAGE},
        },
        "processor_config.json": {"num_query_tokens": digits_t5.SLOTS, "processor_class": processor},
        "generation_config.json": {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    }
    for name, content in contents.items():
        (out / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def cached(path: Path, make: Callable[[], dict]) -> dict[str, np.ndarray]:
    """Load the parameters that an earlier run stored at ``path``, or make and store them."""
    if path.exists():
        return load_file(path)
    arrays = {name: np.asarray(value) for name, value in flatten(nnx.State(make())).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path)
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("instructblip_jax/assets/digits"))
    parser.add_argument("--cache", type=Path, default=Path("build/digits_towers"))
    parser.add_argument("--vit-steps", type=int, default=5000)
    parser.add_argument("--t5-steps", type=int, default=7100)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_t5(args.out)
    qformer_tokenizer = write_qformer(args.out / "qformer_tokenizer")
    write_configs(
        args.out,
        tokenizer.get_vocab_size(),
        qformer_tokenizer.get_vocab_size(),
        tokenizer.token_to_id("<image>"),
    )
    config = hf_instructblip.read_config(args.out / "config.json")
    image = ImageProcessor.from_pretrained(args.out)

    def normalize(pixels: np.ndarray) -> np.ndarray:
        scaled = np.asarray(pixels, np.float32) * np.float32(image.rescale)
        return (scaled - np.asarray(image.mean, np.float32)) / np.asarray(image.std, np.float32)

    make = {
        "vit": lambda: digits_vit.train(config.vision, normalize, args.vit_steps),
        "llm": lambda: digits_t5.train(config.text, tokenizer, args.t5_steps),
    }
    towers = {name: cached(args.cache / f"{name}.safetensors", run) for name, run in make.items()}
    _, state = nnx.split(InstructBlipSystem(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    arrays = {path: np.asarray(variable[...]) for path, variable in flatten(state).items()}
    for name, tower in towers.items():
        for path, value in tower.items():
            assert arrays[f"{name}/{path}"].shape == value.shape
            arrays[f"{name}/{path}"] = value
    stored = {path: jnp.asarray(value, jnp.bfloat16) for path, value in arrays.items()}
    write_shards(args.out, save.tensors(hf_instructblip.rules(config), stored), max_bytes=5 * 10**9)
    print(f"wrote {args.out}: {sum(x.size for x in stored.values()):,} parameters")


if __name__ == "__main__":
    main()
