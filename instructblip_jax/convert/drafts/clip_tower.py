"""The tower of a CLIP, as a part of another model."""

import re
from pathlib import Path
from typing import Any

from instructblip_jax.convert.parts import clip_vit
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Tensor, stored
from instructblip_jax.files import read_json

BUFFER = re.compile(r".*\.rotary_emb\.inv_freq|.*\.position_ids")
"""Names of buffers that old files hold."""
INNER = "vision_model."


def clip_tower(directory: Path, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """vision_config and tensors of a CLIP's tower, named by ``prefix``. Raises ValueError for another model."""
    path = directory / "config.json"
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise ValueError(f"{path}: model_type is {kind!r}; a tower to put in is clip or clip_vision_model")
    section = dict(raw.get("vision_config") or {}) if kind == "clip" else raw
    clip_vit.read_config(path, "vision_config" if kind == "clip" else "", section)  # raises, naming the field
    shards = open_shards(directory)
    names = [name for name in shards.shapes if not BUFFER.fullmatch(name)]
    if any(name.startswith(INNER) for name in names):  # else written from a fresh CLIPVisionModel
        names = [name for name in names if name.startswith(INNER)]
    tower: dict[str, Tensor] = {prefix + name.removeprefix(INNER): stored(shards, name) for name in names}
    return section | {"model_type": "clip_vision_model"}, tower
