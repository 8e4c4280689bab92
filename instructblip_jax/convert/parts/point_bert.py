"""PointBERT with its projection, under the names of ULIP's public files, which also contain other towers."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked, fields
from instructblip_jax.convert.public_file import PublicFile, directory_or_file
from instructblip_jax.convert.rule import LEADING, TRANSPOSE, Rule, Transform, dense, norm, third
from instructblip_jax.convert.write import Tensor
from instructblip_jax.models.towers.point_bert import PointBertConfig

ROOT, PROJECTION = "point_encoder.", "pc_projection"
"""Prefix of the names of the tower's tensors, and the name of the projection after it."""
PARALLEL = "module."
"""torch's prefix of all names in a model that was trained on several GPUs."""
HEAD_SIZE = 64
"""The head size in the public files, which determines the number of heads."""
_POINTWISE = Transform(lambda s: (*s[::-1], 1), lambda x: x[..., 0].T, lambda x: x.T[..., None])
"""Theirs is a convolution of one tap [out, in, 1], ours a kernel [in, out]."""
_NORMS = (("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("variance", "running_var"))


def read_config(path: Path, section: Mapping[str, Any], name: str = "") -> PointBertConfig:
    """The section ``name`` of a config.json -> its dataclass; absent fields are those of ULIP-2's file for 8192 points
    without colour. Raises ValueError naming file and field."""
    where = f"{name}." if name else ""
    section = dict(section)
    channels = checked(path, f"{where}channels", section.pop("channels", list(PointBertConfig.channels)), list)
    if len(channels) != 3:
        raise ValueError(f"{path}: {where}channels is {channels}; it must be three inner widths")
    widths = [checked(path, f"{where}channels[{n}]", value, int) for n, value in enumerate(channels)]
    config = PointBertConfig(**fields(path, name, PointBertConfig, section), channels=(widths[0], widths[1], widths[2]))
    if config.trans_dim % config.num_heads:
        raise ValueError(
            f"{path}: {where}trans_dim {config.trans_dim} is not a multiple of num_heads {config.num_heads}"
        )
    return config


def rules(config: PointBertConfig, ours: str, theirs: str) -> list[Rule]:
    """The table. Their fused qkv is our q, k and v."""
    root = f"{theirs}{ROOT}"
    block = f"{root}blocks.blocks.{{layer}}."
    table = [
        Rule(f"{ours}class_token", f"{root}cls_token", LEADING),
        Rule(f"{ours}class_position", f"{root}cls_pos", LEADING),
        *dense(f"{ours}reduce", f"{root}reduce_dim"),
        *dense(f"{ours}position_up", f"{root}pos_embed.0"),
        *dense(f"{ours}position_down", f"{root}pos_embed.2"),
        *norm(f"{ours}layers/norm1", f"{block}norm1"),
        *norm(f"{ours}layers/norm2", f"{block}norm2"),
        *dense(f"{ours}layers/attn/o", f"{block}attn.proj"),
        *dense(f"{ours}layers/up", f"{block}mlp.fc1"),
        *dense(f"{ours}layers/down", f"{block}mlp.fc2"),
        *norm(f"{ours}norm", f"{root}norm"),
        Rule(f"{ours}projection/kernel", f"{theirs}{PROJECTION}"),
    ]
    for part, short in enumerate("qkv"):
        table.append(Rule(f"{ours}layers/attn/{short}/kernel", f"{block}attn.qkv.weight", third(TRANSPOSE, part)))
    for (first, second), name in ((("first", "second"), "first_conv"), (("third", "fourth"), "second_conv")):
        for own, number in ((first, 0), (second, 3)):
            at = f"{root}encoder.{name}.{number}"
            table += [
                Rule(f"{ours}patches/{own}/kernel", f"{at}.weight", _POINTWISE),
                Rule(f"{ours}patches/{own}/bias", f"{at}.bias"),
            ]
        table += [
            Rule(f"{ours}patches/{first}_norm/{own}", f"{root}encoder.{name}.1.{published}")
            for own, published in _NORMS
        ]
    return table


def unread(theirs: str) -> str:
    """Pattern of the tensors that the tower does not use: the batch counts of its statistics. ``theirs`` is a
    pattern."""
    return rf"{theirs}point_encoder\.encoder\.(first|second)_conv\.1\.num_batches_tracked"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """ULIP's public file, or a directory with config.json and safetensors under the same names -> the fields of
    `PointBertConfig` as a section of a config.json, and the tower's tensors under their public names, without the
    file's other towers.

    Raises FileNotFoundError, or ValueError naming the file, for instance for clouds with colour.
    """
    section, tensors = directory_or_file(path, _of_file)
    tensors = {name: tensor for name, tensor in tensors.items() if name == PROJECTION or name.startswith(ROOT)}
    config = read_config(path, _with_shapes(path, section, tensors))
    return dataclasses.asdict(config) | {"channels": list(config.channels)}, tensors


def _of_file(file: PublicFile) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {}, {name.removeprefix(PARALLEL): tensor for name, tensor in file.tensors("state_dict").items()}


def _with_shapes(path: Path, section: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The section, with absent fields derived from the tensors, because the public files have no configuration."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors or len(tensors[name].shape) != rank:
            raise ValueError(f"{path}: is no PointBERT of ULIP: it holds no {name} with {rank} axes")
        return tensors[name].shape

    first = shape(f"{ROOT}encoder.first_conv.0.weight", 3)
    blocks = [re.match(rf"{re.escape(ROOT)}blocks\.blocks\.(\d+)\.", name) for name in tensors]
    depth = 1 + max((int(block[1]) for block in blocks if block), default=-1)
    width, embed = shape(PROJECTION, 2)
    if first[1] != 3:
        raise ValueError(
            f"{path}: reads {first[1]} numbers per point (and has {depth} blocks and an output of {embed}), as "
            "ULIP-2's tower for 10,000 points with colour does; use the one for 8192 points: pointbert_ULIP-2.pt"
        )
    found = {
        "trans_dim": width // 2,
        "depth": depth,
        "num_heads": max(1, width // 2 // HEAD_SIZE),
        "encoder_dims": shape(f"{ROOT}encoder.second_conv.3.weight", 3)[0],
        "channels": [
            first[0],
            shape(f"{ROOT}encoder.first_conv.3.weight", 3)[0],
            shape(f"{ROOT}encoder.second_conv.0.weight", 3)[0],
        ],
        "position_hidden": shape(f"{ROOT}pos_embed.0.weight", 2)[0],
        "embed_dim": embed,
    }
    return found | dict(section)
