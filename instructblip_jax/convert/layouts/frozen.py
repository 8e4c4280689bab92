"""Frozen's layout, which is ours: the original was never published."""

import re
from pathlib import Path
from typing import Any

from instructblip_jax.convert import language_models
from instructblip_jax.convert.config_fields import checked
from instructblip_jax.convert.parts import clip_vit, nf_resnet
from instructblip_jax.convert.rule import Rule, dense
from instructblip_jax.files import read_json
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.frozen import FrozenConfig

KIND = "frozen"
VISION, LLM = ("vision/", "vision_model."), ("llm/", "language_model.")
PREFIX = "prefix"
CLIP = "clip_vision_model"
LANGUAGE = ("llama", "opt")
"""model_types of a text_config: models that continue a text."""


def read_config(path: Path) -> FrozenConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    if raw.get("model_type") != KIND:
        raise ValueError(f"{path}: model_type is {raw.get('model_type')!r}; this layout is that of {KIND}")
    for name in ("vision_config", "text_config"):
        if not isinstance(raw.get(name), dict):
            raise ValueError(f"{path}: {name} is {raw.get(name)!r}, not an object")
    text, vision = raw["text_config"], raw["vision_config"]
    if text.get("model_type") not in LANGUAGE:
        raise ValueError(
            f"{path}: text_config.model_type is {text.get('model_type')!r}; it is one of {', '.join(LANGUAGE)}"
        )
    return FrozenConfig(
        _tower(path, vision),
        language_models.LANGUAGE_MODELS[text["model_type"]].read_config(path, text),
        vectors=checked(path, "prefix_vectors", raw.get("prefix_vectors", 2), int),
        image_token_id=checked(path, "image_token_id", raw.get("image_token_id"), int),
    )


def _tower(path: Path, section: dict[str, Any]) -> Any:
    kind = section.get("model_type")
    if kind == nf_resnet.KIND:
        return nf_resnet.read_config(path, section)
    if kind == CLIP:
        return clip_vit.read_config(path, "vision_config", section, post_norm=True)
    raise ValueError(f"{path}: vision_config.model_type is {kind!r}; it is {nf_resnet.KIND} or {CLIP}")


def rules(config: FrozenConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    vision = config.vision
    if isinstance(vision, VitConfig):
        table = clip_vit.rules(vision, *VISION, stored_grid=config.stored_image_size // vision.patch_size)
    else:
        table = nf_resnet.rules(vision, *VISION)
    table = [*table, *dense(PREFIX, PREFIX), *language_models.of(config.text).rules(*LLM)]
    return {rule.ours: rule for rule in table}


def ignored(config: FrozenConfig) -> re.Pattern[str]:
    """Names of extra tensors in files: buffers and aliases of the parts."""
    return re.compile(f"{clip_vit.ignored(re.escape(VISION[1]))}|{language_models.of(config.text).ignored(LLM[1])}")
