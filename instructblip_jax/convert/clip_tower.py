"""The vision tower of a CLIP in Hugging Face's layout -> the tower of an assembled model."""

import re
from pathlib import Path
from typing import Any

from instructblip_jax.convert.parts import clip_vit
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Tensor, stored
from instructblip_jax.files import read_json

BUFFER = re.compile(r".*\.rotary_emb\.inv_freq|.*\.position_ids")
"""Names of tensors that contain only position indices."""


def read(directory: Path, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """vision_config of a CLIP, and its tower's tensors, named after ``prefix``. Raises ValueError for another model."""
    path = directory / "config.json"
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise ValueError(f"{path}: model_type is {kind!r}; a tower must be clip or clip_vision_model")
    section = dict(raw.get("vision_config") or {}) if kind == "clip" else raw
    clip_vit.read_config(path, "vision_config" if kind == "clip" else "", section)  # raises, naming the field
    shards, inner = open_shards(directory), "vision_model."
    names = [name for name in shards.shapes if not BUFFER.fullmatch(name)]
    if any(name.startswith(inner) for name in names):  # else saved from a CLIPVisionModel
        names = [name for name in names if name.startswith(inner)]
    tower: dict[str, Tensor] = {prefix + name.removeprefix(inner): stored(shards, name) for name in names}
    return section | {"model_type": "clip_vision_model"}, tower
