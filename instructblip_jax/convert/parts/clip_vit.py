"""CLIP's vision tower."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import check_divisible, check_patches, fields
from instructblip_jax.convert.positions import resized
from instructblip_jax.convert.rule import FLAT, IDENTITY, Rule, dense, norm, patches
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.models.towers.vit import VitConfig

DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""Hugging Face's class defaults of a vision_config."""


def read_config(path: Path, name: str, section: Mapping[str, Any], *, post_norm: bool = False) -> VitConfig:
    """A CLIP vision configuration, the section ``name`` of a file ("": top level) -> its dataclass.

    Raises ValueError naming file and field.
    """
    where = f"{name}." if name else ""
    found = {**DEFAULTS, **{key: section[key] for key in DEFAULTS if section.get(key) is not None}}
    config = VitConfig(**fields(path, name, VitConfig, found), patch_bias=False, pre_norm=True, post_norm=post_norm)
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"{path}: {where}hidden_act is {config.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        )
    check_patches(path, name, config.image_size, config.patch_size)
    check_divisible(path, name, config.hidden_size, config.num_attention_heads)
    return config


def rules(config: VitConfig, ours: str, theirs: str, *, stored_grid: int = 0, last_apart: bool = False) -> list[Rule]:
    """The table. Hugging Face's name of the first norm is ``pre_layrnorm``.

    ``stored_grid``: patches per side for which the files store position embeddings, 0 for the tower's own number.
    ``last_apart``: see `Vit`.
    """
    same = stored_grid in (0, config.grid)
    block = f"{theirs}encoder.layers.{{layer}}"
    embeddings = f"{theirs}embeddings"
    table = [
        Rule(f"{ours}class_token", f"{embeddings}.class_embedding", FLAT),
        Rule(
            f"{ours}position",
            f"{embeddings}.position_embedding.weight",
            IDENTITY if same else resized(stored_grid, config.grid, leading=False),
        ),
        Rule(f"{ours}patch/kernel", f"{embeddings}.patch_embedding.weight", patches(config.patch_size)),
        *norm(f"{ours}pre_norm", f"{theirs}pre_layrnorm"),
        *norm(f"{ours}post_norm", f"{theirs}post_layernorm"),
        *_block(f"{ours}layers", block),
    ]
    if last_apart:
        table += _block(f"{ours}last", block.format(layer=config.num_hidden_layers - 1))
    return table


def _block(ours: str, theirs: str) -> list[Rule]:
    """The table of a block, or of a stack of blocks."""
    table = [
        *norm(f"{ours}/norm1", f"{theirs}.layer_norm1"),
        *norm(f"{ours}/norm2", f"{theirs}.layer_norm2"),
        *dense(f"{ours}/attn/o", f"{theirs}.self_attn.out_proj"),
        *dense(f"{ours}/up", f"{theirs}.mlp.fc1"),
        *dense(f"{ours}/down", f"{theirs}.mlp.fc2"),
    ]
    for name in "qkv":
        table += dense(f"{ours}/attn/{name}", f"{theirs}.self_attn.{name}_proj")
    return table


def ignored(theirs: str) -> str:
    """Pattern of the extra tensors in old files: a buffer of position indices. ``theirs`` is a pattern."""
    return rf"{theirs}embeddings\.position_ids"


def cut(config: VitConfig, layers: int) -> VitConfig:
    """The tower up to the output of layer number ``layers``, counted from 1."""
    return dataclasses.replace(config, num_hidden_layers=layers)


def unread(config: VitConfig, theirs: str) -> str:
    """Pattern of a tower's tensors that ``config`` does not use: later layers, a last norm. ``theirs`` is a pattern."""
    layers = "|".join(map(str, range(config.num_hidden_layers)))
    later = rf"{theirs}encoder\.layers\.(?!({layers})\.)\d+\..+"
    return later if config.post_norm else rf"{later}|{theirs}post_layernorm\..+"
