"""BLIP-2 before its first stage, from a vision tower and a BERT (arXiv 2301.12597, section 3.1).

Also reads the parts of a trained one that later models use: the text half of its Q-Former, with its tokenizer.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import qformer_from_bert, vocabulary
from instructblip_jax.convert.assemble import Draft, check_fits
from instructblip_jax.convert.drafts.picture_text import first_value
from instructblip_jax.convert.export import kept
from instructblip_jax.convert.layouts import hf_blip2_retrieval, hf_instructblip
from instructblip_jax.convert.layouts.hf_blip2_retrieval import EMBEDDINGS, FIRST_NORM, HEAD, PROJECTIONS
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.convert.write import read as read_tensor
from instructblip_jax.files import read_json
from instructblip_jax.processors.image import PREPROCESSOR, settings

QUERIES, COMMON = 32, 256
"""Number of query tokens, and the width of the contrastive embeddings (section 3.1 and the original's code)."""
PROCESSOR_CLASS = "Blip2Processor"
_NORM = "vision_model.post_layernorm."
_TEXT_HALF = re.compile(
    rf"{re.escape(EMBEDDINGS)}.+|qformer\.encoder\.layer\.\d+\.(intermediate|output)\.(dense|LayerNorm)\..+"
)


def is_first_stage(directory: Path) -> bool:
    """True if a model directory is of BLIP-2's first stage. Raises FileNotFoundError or ValueError naming the file."""
    return hf_blip2_retrieval.is_first_stage(read_json(directory / "config.json"))


def read(directory: Path) -> tuple[dict[str, Any], Any, dict[str, Tensor]]:
    """config.json, configuration and tensors of a model of this stage, of BLIP-2's second stage or of InstructBLIP,
    without the extra tensors of old files. Raises FileNotFoundError or ValueError for another or an incomplete
    model."""
    path = directory / "config.json"
    raw: dict[str, Any] = read_json(path)
    layout: Any = hf_blip2_retrieval if hf_blip2_retrieval.is_first_stage(raw) else hf_instructblip
    config, shards = layout.read_config(path), open_shards(directory)
    rules, ignored = layout.rules(config), layout.ignored(config)
    check_fits(config, rules, shards, ignored)
    return raw, config, {name: stored(shards, name) for name in kept(rules, ignored, shards.shapes)}


def text_half(directory: Path) -> dict[str, Tensor]:
    """The text half of a trained Q-Former, by InstructBLIP's names: embeddings, and each layer's feed-forward."""
    _, _, tensors = read(directory)
    found = {name: tensor for name, tensor in tensors.items() if _TEXT_HALF.fullmatch(name)}
    return {f"qformer.{name.removeprefix('qformer.')}": tensor for name, tensor in found.items()}


def draft(model_type: str, parts: Mapping[str, Path], seed: int, queries: int = QUERIES) -> Draft:
    """See `families.Family`; the parts are "vision" and "bert". ``queries``: number of query tokens.

    Both halves of the Q-Former and its head are initialised from BERT, each with a row for ``[DEC]``. The norm after
    the tower is new; projections and the matching head are initialised as torch's linear layers, with a bias of 0.
    """
    vision, bert = parts["vision"], parts["bert"]
    source, config, tensors = read(vision)
    tensors = {
        name: tensor for name, tensor in tensors.items() if name.startswith("vision_model.") and _NORM not in name
    }
    section, scale = qformer_from_bert.read_config(bert), qformer_from_bert.initializer_range(bert)
    halves = qformer_from_bert.both_halves(bert, section, f"{FIRST_NORM}.", text=True, seed=seed)
    tensors |= {name.replace(f"qformer.{EMBEDDINGS}", EMBEDDINGS): tensor for name, tensor in halves.items()}
    rows = tensors[qformer_from_bert.WORDS].shape[0]
    tensors |= _head(bert, rows)
    words = vocabulary.for_qformer(bert, rows - 1, PROCESSOR_CLASS, truncation="right")
    ids = {f"{name}_token_id": words.id_of(f"{name}_token") for name in ("sep", "pad")}
    sizes = {"vocab_size": rows, "max_position_embeddings": tensors[qformer_from_bert.POSITIONS].shape[0]}
    raw = {
        "architectures": [hf_blip2_retrieval.ARCHITECTURE],
        hf_blip2_retrieval.PRETRAINING: True,
        "image_text_hidden_size": COMMON,
        "initializer_factor": 1.0,
        "initializer_range": scale,
        "model_type": model_type,
        "num_query_tokens": queries,
        "qformer_config": section
        | sizes
        | ids
        | {
            "model_type": "blip_2_qformer",
            "use_qformer_text_input": True,
            "encoder_hidden_size": config.vision.hidden_size,
        },
        "use_decoder_only_language_model": True,
        "vision_config": (source.get("vision_config") or {}) | {"model_type": "blip_2_vision_model"},
    }
    files = {"config.json": raw, PREPROCESSOR: settings(vision)[2] | {"processor_class": PROCESSOR_CLASS}}
    return Draft(tensors, files, {"": words}, vision, lambda name, shape: _draw(name, shape, scale, seed))


def _head(bert: Path, rows: int) -> dict[str, Tensor]:
    """BERT's masked language modelling head, whose bias has a new entry of 0; empty if the BERT has none."""
    shards = open_shards(bert)
    names = {qformer_from_bert.plain(name): name for name in shards.shapes}
    found: dict[str, Tensor] = {
        name: stored(shards, names[name])
        for name in sorted(names)
        if name.startswith(f"{HEAD[1]}transform.") or name == f"{HEAD[1]}bias"
    }
    if (name := f"{HEAD[1]}bias") in found:
        old = found[name]

        def longer() -> np.ndarray:
            return np.pad(read_tensor(old), (0, rows - old.shape[0]))

        found[name] = Lazy((rows,), old.dtype, longer)
    return found


def _draw(name: str, shape: Shape, scale: float, seed: int) -> Lazy:
    linear = name.removesuffix(".weight") in PROJECTIONS.values()
    return first_value(name, shape, linear=linear, seed=seed, scale=scale)
