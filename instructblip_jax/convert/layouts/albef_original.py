"""ALBEF's own files (.pth) and those of LAVIS's port (.pt) -> a model directory of ours. Names and values are equal.

Sizes are derived from the tensors, except for the number of BERT's heads, which its config.json has; a ViT's head size
is 64.
"""

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import qformer_from_bert
from instructblip_jax.convert.assemble import Draft
from instructblip_jax.convert.drafts import albef as drafts
from instructblip_jax.convert.layouts.albef import DECODER, TEXT, VIT, second_keys
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.write import Lazy, Tensor
from instructblip_jax.systems.albef_classes import ENTAILMENT

HEAD_SIZE = 64
"""Head size of every ViT (arXiv 2010.11929)."""
SKIPPED = re.compile(
    r"(visual_encoder|text_encoder|text_decoder|vision_proj|text_proj|cls_head)_m\..+"
    r"|(image|text|idx)_queue|queue_ptr|ptr_queue"
    r"|.*embeddings\.position_ids|text_(en|de)coder\.cls\.predictions\.decoder\.(weight|bias)|ta_head\..+"
)
"""Momentum copies, queues, buffers, aliases, and the head of NLVR2's own pre-training."""
_BERT = f"{TEXT}bert."
_ALIAS = re.compile(r"(text_(?:en|de)coder\.)cls\.predictions\.decoder\.(weight|bias)")


def draft(path: Path, found: Mapping[str, np.ndarray], bert: Path, seed: int) -> tuple[Draft, list[str]] | None:
    """A directory of the form to which a file's tensors belong, with BERT's tokenizer, and the names that were skipped.
    None for the tensors of another system: ALBEF's first text layers have no cross-attention, its later ones do.

    Args:
      path: the file, for errors.
      found: original name -> tensor.
      bert: BERT's directory.
      seed: seed of NLVR2's classifier if the file is from NLVR2's pre-training, which has none.

    Raises ValueError naming what does not fit.
    """
    start = min(_layers(found), default=0)
    if not start or f"{VIT}pos_embed" not in found:
        return None
    skipped = [name for name in found if SKIPPED.fullmatch(name)]
    task = _task(found)
    prefix = _BERT if f"{_BERT}{qformer_from_bert.WORDS}" in found else TEXT
    text, vision = text_config(path, found, prefix, bert), vision_config(path, found)
    text["fusion_layer"] = start
    if task == "reasoning":
        text["num_hidden_layers"] = start + (text["num_hidden_layers"] - start) // 2
        skipped += _second_keys(path, found, prefix, start, text["num_hidden_layers"])
    _check_aliases(path, found, prefix)
    tensors: dict[str, Tensor] = {
        (name if task == "pretraining" else name.replace(_BERT, TEXT, 1)): tensor
        for name, tensor in found.items()
        if name not in skipped
    }
    types = f"{prefix}embeddings.token_type_embeddings.weight" in found
    config: dict[str, Any] = {
        # LAVIS's port differs from the original in both.
        "add_sep": not types,
        "text_config": text | {"add_type_embeddings": types},
        "vision_config": vision,
    }
    if "vision_proj.weight" in found:
        config["embed_dim"] = found["vision_proj.weight"].shape[0]
    made = drafts.whole(config, tensors, bert, path, task, partial(_draw, seed=seed))
    return made, sorted(skipped)


def _layers(names: Collection[str]) -> set[int]:
    """Indices of the text encoder's layers that attend to an image."""
    pattern = re.compile(rf"{TEXT}(?:bert\.)?encoder\.layer\.(\d+)\.crossattention\.self\.query\.weight")
    return {int(match[1]) for match in map(pattern.fullmatch, names) if match}


def _task(found: Mapping[str, np.ndarray]) -> str:
    """The form of a file with these tensors."""
    if any(name.startswith(DECODER) for name in found):
        return "question_answering"
    if "itm_head.weight" in found:
        return "pretraining" if f"{TEXT}cls.predictions.bias" in found else "retrieval"
    bias = found.get("cls_head.2.bias")
    return "entailment" if bias is not None and len(bias) == len(ENTAILMENT) else "reasoning"


def text_config(path: Path, found: Mapping[str, np.ndarray], prefix: str, bert: Path) -> dict[str, Any]:
    """The sizes of the text encoder, counting all its layers."""
    section = qformer_from_bert.read_config(bert)
    words, positions = (found.get(f"{prefix}{name}") for name in (qformer_from_bert.WORDS, qformer_from_bert.POSITIONS))
    up = found.get(f"{prefix}encoder.layer.0.intermediate.dense.weight")
    if words is None or positions is None or up is None:
        raise ValueError(f"{path}: holds no BERT under {prefix}")
    if words.shape[1] != section["hidden_size"]:
        raise ValueError(
            f"{path}: the text encoder's width is {words.shape[1]}, and {bert} has {section['hidden_size']}; give the "
            "BERT from which this model was initialised"
        )
    layers = {
        int(match[1]) for match in (re.match(rf"{prefix}encoder\.layer\.(\d+)\.", name) for name in found) if match
    }
    return section | {
        "vocab_size": words.shape[0],
        "max_position_embeddings": positions.shape[0],
        "num_hidden_layers": max(layers) + 1,
        "intermediate_size": up.shape[0],
    }


def vision_config(path: Path, found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The sizes of the tower."""
    names = ("pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    positions, patch, up = (found.get(VIT + name) for name in names)
    if positions is None or patch is None or up is None:
        raise ValueError(f"{path}: holds no ViT under {VIT}")
    grid = round((positions.shape[1] - 1) ** 0.5)
    if grid**2 + 1 != positions.shape[1]:
        raise ValueError(f"{path}: {VIT}pos_embed has {positions.shape[1]} positions, no square and a class token")
    blocks = {int(match[1]) for match in (re.match(rf"{VIT}blocks\.(\d+)\.", name) for name in found) if match}
    width = positions.shape[2]
    return {
        "hidden_size": width,
        "intermediate_size": up.shape[0],
        "num_hidden_layers": max(blocks) + 1,
        "num_attention_heads": max(1, width // HEAD_SIZE),
        "image_size": grid * patch.shape[2],
        "patch_size": patch.shape[2],
        "layer_norm_eps": 1e-6,
    }


def _second_keys(path: Path, found: Mapping[str, np.ndarray], prefix: str, start: int, end: int) -> list[str]:
    """The tensors of the second layers of pairs that equal those of the first ones. Raises ValueError if they
    differ."""
    pattern = re.compile(re.escape(prefix) + second_keys(start, end))
    names = [name for name in found if pattern.fullmatch(name)]
    for name in names:
        first = re.sub(r"layer\.(\d+)", lambda match: f"layer.{int(match[1]) - 1}", name)
        if first not in found or not np.array_equal(found[name], found[first]):
            raise ValueError(f"{path}: {name} is not {first}; both images of a pair share keys and values")
    return names


def _check_aliases(path: Path, found: Mapping[str, np.ndarray], prefix: str) -> None:
    """Raise ValueError if a head's matrix differs from the word embeddings."""
    for name, tensor in found.items():
        if match := _ALIAS.fullmatch(name):
            words = f"{prefix if match[1] == TEXT else f'{DECODER}bert.'}{qformer_from_bert.WORDS}"
            own = {"weight": words, "bias": f"{match[1]}cls.predictions.bias"}[match[2]]
            if own not in found or not np.array_equal(tensor, found[own]):
                raise ValueError(f"{path}: {name} is not {own}, to which it is tied")


def _draw(name: str, shape: Shape, *, seed: int) -> Lazy | None:
    return drafts.draw(name, shape, seed=seed) if name.startswith("cls_head.") else None
