"""A plain ViT or DeiT in Hugging Face's layout -> the initial tower of ALBEF (from DeiT-B/16) and BLIP.

The source may also be an InstructBLIP or BLIP-2, whose tower is a ViT under other names.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert.config_fields import checked
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.parts import timm_vit
from instructblip_jax.convert.shards import Shards, open_shards
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.files import read_json

KINDS = ("vit", "deit")
"""Supported model_types."""
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
"""Fields of a vision_config, and Hugging Face's class defaults."""
EPSILON = 1e-6
"""Epsilon of the norms in both originals; DeiT's own file has 1e-12."""
_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
)
_QKV = re.compile(r"(encoder\.layer\.(\d+)\.attention\.attention)\.query\.(weight|bias)")
_WRAPPERS = re.compile(rf"({'|'.join(KINDS)})\.")


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The sizes of a tower, as a vision_config, and its tensors under timm's names, query, key and value fused.

    Classification heads are left out. Raises FileNotFoundError or ValueError naming the file and what is wrong.
    """
    path = directory / "config.json"
    raw = read_json(path)
    if raw.get("model_type") in hf_instructblip.HAS_TEXT:
        return _inside(directory)
    if raw.get("model_type") not in KINDS:
        raise ValueError(
            f"{path}: model_type is {raw.get('model_type')!r}; a tower must be {' or '.join(KINDS)}, "
            f"or that of {' or '.join(hf_instructblip.HAS_TEXT)}"
        )
    section = {name: checked(path, name, raw.get(name, default), int) for name, default in SIZES.items()}
    shards = open_shards(directory)
    names = {_WRAPPERS.sub("", name, count=1): name for name in shards.shapes}
    if "embeddings.distillation_token" in names:
        raise ValueError(
            f"{directory}: is a distilled DeiT, whose tower has one more token; use the plain one "
            "(facebook/deit-base-patch16-224)"
        )
    tensors: dict[str, Tensor] = {}
    for plain, name in names.items():
        if match := _QKV.fullmatch(plain):
            parts = [names.get(plain.replace("query", part), "") for part in ("query", "key", "value")]
            if all(parts):
                tensors[f"blocks.{match[2]}.attn.qkv.{match[3]}"] = _fused(shards, parts)
        for theirs, timm in _NAMES:
            if found := re.fullmatch(theirs, plain):
                tensors[found.expand(timm)] = stored(shards, name)
    return {**section, "layer_norm_eps": EPSILON}, tensors


def _inside(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The same of the tower in an InstructBLIP or BLIP-2."""
    vision, shards = hf_instructblip.read_config(directory / "config.json").vision, open_shards(directory)
    prefix = hf_instructblip.VIT[1]
    tensors: dict[str, Tensor] = {
        timm_vit.renamed(name.removeprefix(prefix)): stored(shards, name)
        for name in shards.shapes
        if name.startswith(prefix)
    }
    return {name: getattr(vision, name) for name in (*SIZES, "hidden_act", "layer_norm_eps")}, tensors


def _fused(shards: Shards, names: list[str]) -> Lazy:
    """Tensors of one shape, joined along the first axis."""
    first = stored(shards, names[0])
    shape = (first.shape[0] * len(names), *first.shape[1:])
    return Lazy(shape, first.dtype, partial(_joined, shards, names))


def _joined(shards: Shards, names: list[str]) -> np.ndarray:
    return np.concatenate([shards.read(name) for name in names])
