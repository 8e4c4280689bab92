"""Hugging Face's layout of InstructBLIP, InstructBlipVideo and BLIP-2 (stage 2)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert import language_models
from instructblip_jax.convert.config_fields import check_divisible, check_patches, checked, fields
from instructblip_jax.convert.language_models import LANGUAGE_MODELS
from instructblip_jax.convert.parts import eva_vit, qformer
from instructblip_jax.convert.rule import LEADING, Rule, dense
from instructblip_jax.files import read_json, write_json
from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.processors.image import write_sizes
from instructblip_jax.systems.instructblip import InstructBlipConfig

HAS_TEXT = {"instructblip": True, "instructblipvideo": True, "blip-2": False}
"""model_type -> True if its Q-Former has a text half."""
IMAGE_TOKENS = {
    "instructblip": ("image_token_index", "image_token_id"),
    "instructblipvideo": ("video_token_index", "video_token_id"),
    "blip-2": ("image_token_index", "image_token_id"),
}
"""model_type -> the possible fields for the id of the visual prompt's placeholder."""
VIT, QFORMER, LLM = ("vit/", "vision_model."), ("qformer/", "qformer."), ("llm/", "language_model.")
"""Prefix of our paths, prefix of Hugging Face names."""


def read_config(path: Path) -> InstructBlipConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in HAS_TEXT:
        raise ValueError(f"{path}: model_type is {kind!r}; this layout is that of {', '.join(sorted(HAS_TEXT))}")
    vision, bridge = read_tower_and_qformer(path, raw, use_text=HAS_TEXT[kind])
    family, section = text_family(raw), _section(path, raw, "text_config")
    if family not in LANGUAGE_MODELS:
        raise ValueError(
            f"{path}: text_config.model_type is {family!r}; the language models read here are "
            f"{', '.join(sorted(LANGUAGE_MODELS))}"
        )
    text = LANGUAGE_MODELS[family].read_config(path, section)
    for field, ours in (("dense_act_fn", "activation"), ("hidden_act", "hidden_act"), ("activation_function",) * 2):
        if hasattr(text, ours):
            _check_activation(path, f"text_config.{field}", getattr(text, ours))
    queries = checked(path, "num_query_tokens", raw.get("num_query_tokens", 32), int)
    token = next((raw[name] for name in IMAGE_TOKENS[kind] if raw.get(name) is not None), None)
    token = -1 if token is None else checked(path, "image_token_index", token, int)
    return InstructBlipConfig(vision, bridge, text, num_query_tokens=queries, image_token_id=token)


def read_tower_and_qformer(path: Path, raw: Mapping[str, Any], *, use_text: bool) -> tuple[VitConfig, QFormerConfig]:
    """vision_config and qformer_config of a config.json. Raises ValueError naming the file and the field."""
    vision = VitConfig(**fields(path, "vision_config", VitConfig, _section(path, raw, "vision_config")))
    # Hugging Face overwrites the file's encoder_hidden_size with the width of the vision tower.
    qformer_fields = fields(path, "qformer_config", QFormerConfig, _section(path, raw, "qformer_config")) | {
        "encoder_hidden_size": vision.hidden_size,
        "use_text": use_text,
    }
    bridge = QFormerConfig(**qformer_fields)
    for name, part in (("vision_config", vision), ("qformer_config", bridge)):
        _check_activation(path, f"{name}.hidden_act", part.hidden_act)
    check_patches(path, "vision_config", vision.image_size, vision.patch_size)
    check_divisible(path, "vision_config", vision.hidden_size, vision.num_attention_heads)
    check_divisible(path, "qformer_config", bridge.hidden_size, bridge.num_attention_heads)
    return vision, bridge


def _section(path: Path, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = raw.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{path}: {name} is not an object")
    return section


def _check_activation(path: Path, name: str, value: str) -> None:
    if value not in ACTIVATIONS:
        raise ValueError(f"{path}: {name} is {value!r}; expected one of {', '.join(ACTIVATIONS)}")


def text_family(raw: Mapping[str, Any]) -> str:
    """model_type of the language model in a config.json, by default Hugging Face's class default, OPT."""
    return (raw.get("text_config") or {}).get("model_type", "opt")


def rules(config: InstructBlipConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    table = [
        *eva_vit.rules(config.vision, *VIT, stored_grid=config.stored_image_size // config.vision.patch_size),
        Rule("query_tokens", "query_tokens", LEADING),
        *dense("projector", "language_projection"),
        *qformer.rules(config.qformer, *QFORMER),
        *language_models.of(config.text).rules(*LLM),
    ]
    return {rule.ours: rule for rule in table}


def ignored(config: InstructBlipConfig) -> re.Pattern[str]:
    """Names of extra tensors in files of 2023: buffers, aliases, a table that is never used.

    Any other tensor without a rule is an error.
    """
    return re.compile(f"{qformer.ignored(QFORMER[1])}|{language_models.of(config.text).ignored(LLM[1])}")


def describe(directory: Path, config: Any) -> None:
    """Write the image size into a model directory's configuration files, if it differs from the stored one."""
    if not config.stored_image_size:
        return
    side = config.vision.image_size
    path = directory / "config.json"
    raw = read_json(path)
    write_json(path, raw | {"vision_config": (raw.get("vision_config") or {}) | {"image_size": side}})
    write_sizes(directory, {"size": {"height": side, "width": side}})
