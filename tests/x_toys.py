"""Small X-InstructBLIPs: every modality, and parts of which such a model is assembled."""

import json
from pathlib import Path
from typing import Any

import checkpoints
import ingredients
import numpy as np
import toys
from safetensors.numpy import save_file

BEATS = {
    "input_patch_size": 4,
    "embed_dim": 10,
    "encoder_layers": 1,
    "encoder_embed_dim": 12,
    "encoder_ffn_embed_dim": 20,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "num_buckets": 8,
    "max_distance": 20,
}
POINTS = {
    "trans_dim": 12,
    "depth": 1,
    "num_heads": 2,
    "group_size": 4,
    "num_group": 5,
    "encoder_dims": 8,
    "channels": [6, 8, 10],
    "position_hidden": 7,
    "embed_dim": 14,
}
ENTRIES = {
    "image": {},
    "video": {"frames": 2},
    "audio": {"blocks": 2, "block": 16, "mels": 8},
    "pc": {"count": 24},
}


def config_json(words: int, qformer_words: int, sizes: dict = checkpoints.MINI, modalities=tuple(ENTRIES), **fields):
    """A ``config.json`` of these modalities."""
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {
        "model_type": "x-instructblip",
        "modalities": {name: ENTRIES[name] for name in modalities},
        "num_query_tokens": 3,
        "prompt": {},
        "vision_config": sizes["vision_config"],
        "audio_config": BEATS,
        "pc_config": POINTS,
        "qformer_config": sizes["qformer_config"] | {"vocab_size": qformer_words} | rates,
        "text_config": checkpoints.TEXT["grouped"] | {"vocab_size": words, "bos_token_id": 2, "eos_token_id": 2},
        **fields,
    }


def write_tower(directory: Path, modality: str, **sizes: int) -> Path:
    """A tower of sounds or clouds alone, as `assemble` takes it."""
    from instructblip_jax.convert.assemble import wanted
    from instructblip_jax.convert.layouts import x_instructblip

    raw = config_json(90, 20, modalities=(modality,))
    section, prefix = x_instructblip.TOWERS[modality]
    raw[f"{section}_config"] = raw[f"{section}_config"] | sizes
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(raw))
    config = x_instructblip.read_config(directory / "config.json")
    names = {
        name: shape for name, shape in wanted(config, x_instructblip.rules(config)).items() if name.startswith(prefix)
    }
    tensors = {name.removeprefix(prefix): checkpoints.values(name, shape, 4) for name, shape in names.items()}
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(raw[f"{section}_config"] | ENTRIES[modality]))
    return directory


def write_parts(directory: Path) -> dict[str, Path]:
    """A language model, a BERT, and two towers."""
    directory.mkdir(parents=True, exist_ok=True)
    return {
        "language": ingredients.write_plain_llama(directory / "llama"),
        "bert": ingredients.write_bert(directory / "bert"),
        "audio": write_tower(directory / "beats", "audio"),
        "pc": write_tower(directory / "points", "pc"),
    }


def medium(modality: str, rng: np.random.Generator) -> Any:
    """A medium as `Processor.media` takes it, of random numbers."""
    if modality in ("image", "video"):
        return rng.integers(0, 256, (30, 34, 3), np.uint8)
    return rng.standard_normal((24, 3)) if modality == "pc" else (rng.standard_normal(4000), 16000)


def write_model(directory: Path, modalities=tuple(ENTRIES), seed: int = 5, **fields: Any) -> Path:
    """A whole model directory over the digits world's words."""
    directory.mkdir(parents=True, exist_ok=True)
    toys.write_processor(directory)
    words, qformer_words = toys.write_tokenizers(directory, "x-instructblip")
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    side = checkpoints.MINI["vision_config"]["image_size"]
    settings["size"] = {"height": side, "width": side}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    raw = config_json(words, qformer_words, modalities=modalities, **fields)
    return checkpoints.write(directory, raw, seed=seed)
