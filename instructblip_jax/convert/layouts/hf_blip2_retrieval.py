"""Hugging Face's layout of BLIP-2's first stage, `Blip2ForImageTextRetrieval`.

The public files lack the temperature and the language modelling head. Our directories have ``"pretraining": true`` in
config.json, and contain both: ``temp``, and ``cls.predictions.*`` under BERT's names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.layouts.hf_instructblip import QFORMER, VIT, read_tower_and_qformer
from instructblip_jax.convert.layouts.picture_text import first_temperature
from instructblip_jax.convert.parts import bert, eva_vit, qformer
from instructblip_jax.convert.rule import LEADING, Rule, dense
from instructblip_jax.files import read_json, write_json
from instructblip_jax.systems.blip2_stage1 import Blip2Stage1Config

ARCHITECTURE = "Blip2ForImageTextRetrieval"
PRETRAINING = "pretraining"
"""Our own field of config.json."""
HEAD = ("qformer/head/", "cls.predictions.")
"""Prefix of our paths, prefix of the names."""
EMBEDDINGS, FIRST_NORM = "embeddings.", f"{QFORMER[1]}layernorm"
PROJECTIONS = {"vision_proj": "vision_projection", "text_proj": "text_projection", "itm_head": "itm_head"}
"""Our paths -> their names."""


def is_first_stage(raw: Mapping[str, Any]) -> bool:
    """True if a config.json is of this layout."""
    architectures = raw.get("architectures")
    return isinstance(architectures, list) and ARCHITECTURE in architectures


def read_config(path: Path) -> Blip2Stage1Config:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    vision, bridge = read_tower_and_qformer(path, raw, use_text=True)
    section = raw.get("qformer_config") or {}
    return Blip2Stage1Config(
        vision,
        bridge,
        projection_size=checked(path, "image_text_hidden_size", raw.get("image_text_hidden_size", 256), int),
        num_query_tokens=checked(path, "num_query_tokens", raw.get("num_query_tokens", 32), int),
        writes=checked(path, PRETRAINING, raw.get(PRETRAINING, False), bool),
        **{
            name: checked(path, f"qformer_config.{name}", section[name], int)
            for name in ("sep_token_id", "pad_token_id")
            if section.get(name) is not None
        },
    )


def rules(config: Blip2Stage1Config) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    table = [
        *eva_vit.rules(config.vision, *VIT, stored_grid=config.stored_image_size // config.vision.patch_size),
        Rule("query_tokens", "query_tokens", LEADING),
        *qformer.rules(config.qformer, *QFORMER, embeddings=EMBEDDINGS, first_norm=FIRST_NORM),
        Rule("temp", "temp", new=None if config.writes else first_temperature),
    ]
    for ours, theirs in PROJECTIONS.items():
        table += dense(ours, theirs)
    if config.writes:
        table += bert.head(*HEAD)
    return {rule.ours: rule for rule in table}


def ignored(config: Blip2Stage1Config) -> re.Pattern[str]:
    """Names of extra tensors in old files: position indices."""
    return re.compile(rf"({re.escape(QFORMER[1])})?{re.escape(EMBEDDINGS)}position_ids")


def describe(directory: Path, config: Blip2Stage1Config) -> None:
    """Write the differences from the source into a directory's configuration files: the image size, and the presence of
    temperature and head."""
    hf_instructblip.describe(directory, config)
    path = directory / "config.json"
    if config.writes and not (raw := read_json(path)).get(PRETRAINING):
        write_json(path, raw | {PRETRAINING: True})
