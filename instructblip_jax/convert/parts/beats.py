"""BEATs, under the names of its public files: a ``cfg`` and a ``model`` in one file of torch."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked, fields
from instructblip_jax.convert.public_file import PublicFile, directory_or_file
from instructblip_jax.convert.rule import TRANSPOSE, Rule, Transform, dense, norm, patches
from instructblip_jax.convert.write import Tensor
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.models.towers.beats import BeatsConfig

FIXED: Mapping[str, Any] = {
    "layer_norm_first": False,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
"""Fields of a ``cfg`` with the only supported value."""
HEAD = "predictor."
"""Prefix of the names of a fine-tuned file's head."""
FIRST = "patch_embedding.weight"
"""The public name of a tensor that every BEATs has."""
_VECTOR = Transform(lambda s: (1, 1, *s), lambda x: x[0, 0], lambda x: x[None, None])
"""Ours is [K], theirs [1, 1, K]."""
_HEADS = Transform(lambda s: (1, *s, 1, 1), lambda x: x[0, :, 0, 0], lambda x: x[None, :, None, None])
"""Ours is [H], theirs [1, H, 1, 1]."""


def read_config(path: Path, section: Mapping[str, Any], name: str = "") -> BeatsConfig:
    """A public file's ``cfg``, or the section ``name`` of a config.json, -> its dataclass; absent fields are those of
    iter3+ AS2M. Raises ValueError naming file and field."""
    where = f"{name}." if name else ""
    for field, value in FIXED.items():
        if section.get(field) not in (None, value):
            raise ValueError(f"{path}: {where}{field} is {section[field]!r}; only {value!r} is supported")
    config = BeatsConfig(**fields(path, name, BeatsConfig, section))
    if config.activation_fn not in ACTIVATIONS:
        raise ValueError(
            f"{path}: {where}activation_fn is {config.activation_fn!r}; expected one of {', '.join(ACTIVATIONS)}"
        )
    for field in ("encoder_attention_heads", "conv_pos_groups"):
        if config.encoder_embed_dim % getattr(config, field):
            raise ValueError(
                f"{path}: {where}encoder_embed_dim {config.encoder_embed_dim} is not a multiple of {field} "
                f"{getattr(config, field)}"
            )
    half = config.num_buckets // 2  # for keys on one side; the nearer half of them are exact
    if config.num_buckets % 2 or half < 2 or config.max_distance <= half // 2:
        raise ValueError(
            f"{path}: {where}num_buckets {config.num_buckets} and max_distance {config.max_distance} make no table: "
            "the first must be even and at least 4, the second more than a quarter of it"
        )
    return config


def rules(config: BeatsConfig, ours: str, theirs: str) -> list[Rule]:
    """The table. The files repeat the relative-position table in every layer: all copies are read and written."""
    layer = f"{theirs}encoder.layers.{{layer}}."
    attention = f"{layer}self_attn."
    position = f"{theirs}encoder.pos_conv.0."
    saved_anew = f"{position}parametrizations.weight.original"  # by a newer torch
    table = [
        Rule(f"{ours}patch/kernel", f"{theirs}{FIRST}", patches(config.input_patch_size, 1)),
        *norm(f"{ours}patch_norm", f"{theirs}layer_norm"),
        Rule(f"{ours}position/length", f"{position}weight_g", _VECTOR, (f"{saved_anew}0",)),
        Rule(f"{ours}position/direction", f"{position}weight_v", TRANSPOSE, (f"{saved_anew}1",)),
        Rule(f"{ours}position/bias", f"{position}bias"),
        *norm(f"{ours}norm", f"{theirs}encoder.layer_norm"),
        Rule(f"{ours}relative", f"{attention}relative_attention_bias.weight", copies=config.encoder_layers),
        *dense(f"{ours}layers/gate", f"{attention}grep_linear"),
        Rule(f"{ours}layers/gate_scale", f"{attention}grep_a", _HEADS),
        *norm(f"{ours}layers/attn_norm", f"{layer}self_attn_layer_norm"),
        *dense(f"{ours}layers/up", f"{layer}fc1"),
        *dense(f"{ours}layers/down", f"{layer}fc2"),
        *norm(f"{ours}layers/norm", f"{layer}final_layer_norm"),
    ]
    if config.conv_bias:
        table.append(Rule(f"{ours}patch/bias", f"{theirs}patch_embedding.bias"))
    if config.embed_dim != config.encoder_embed_dim:
        table += dense(f"{ours}projection", f"{theirs}post_extract_proj")
    for short, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")):
        table += dense(f"{ours}layers/attn/{short}", f"{attention}{name}")
    return table


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A public file, or a directory with config.json and safetensors under the same names -> the fields of
    `BeatsConfig` as a section of a config.json, and the tower's tensors under their public names.

    Raises FileNotFoundError, or ValueError naming the file, for instance if it was fine-tuned with labels.
    """
    section, tensors = directory_or_file(path, _of_file)
    if any(name.startswith(HEAD) for name in tensors):
        raise ValueError(
            f"{path}: was fine-tuned with labels (it holds {HEAD}*); take the self-supervised BEATs_iter3_plus_AS2M.pt"
        )
    if FIRST not in tensors:
        raise ValueError(f"{path}: is no BEATs: it holds no {FIRST}")
    return dataclasses.asdict(read_config(path, section)), tensors


def _of_file(file: PublicFile) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return checked(file.path, "cfg", file.content.get("cfg"), dict), file.tensors("model")
