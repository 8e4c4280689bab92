"""A public ``config.json`` -> our dataclasses. Sparse files rely on Hugging Face's class defaults, which ours are."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.files import read_json
from instructblip_jax.models.layers import ACTIVATIONS
from instructblip_jax.models.qformer import QFormerConfig
from instructblip_jax.models.t5 import T5Config
from instructblip_jax.models.vit import VitConfig
from instructblip_jax.systems.instructblip import InstructBlipConfig

MODEL_TYPES = {"instructblip": True, "blip-2": False}
"""Model types this reads -> whether their Q-Former has a text half."""


def _checked(path: Path, field: str, value: Any, kind: type) -> Any:
    """``value``, if it is of its type, and a positive one if it counts something. Raises ValueError."""
    number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if not (number if kind in (int, float) else isinstance(value, kind)):
        raise ValueError(f"{path}: {field} is {value!r}, not of type {kind.__name__}")
    if kind is int and value < (0 if field.endswith("_id") else 1):
        raise ValueError(f"{path}: {field} is {value}; it must be at least {0 if field.endswith('_id') else 1}")
    return value


def _fields(path: Path, name: str, config_class: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """What section ``name`` says of the fields of ``config_class``; null counts as not said."""
    return {
        field: _checked(path, f"{name}.{field}", section[field], kind)
        for field, kind in typing.get_type_hints(config_class).items()
        if section.get(field) is not None
    }


def _t5(path: Path, section: Mapping[str, Any]) -> T5Config:
    proj = _checked(path, "text_config.feed_forward_proj", section.get("feed_forward_proj", "relu"), str)
    gated, _, name = proj.rpartition("-")
    if gated != "gated":
        raise ValueError(f"{path}: text_config.feed_forward_proj is {name!r}; T5 v1.1 and FlanT5 are gated ones")
    # The explicit key wins: FlanT5 inside BLIP uses the exact GELU although feed_forward_proj says "gated-gelu".
    activation = section.get("dense_act_fn") or {"gelu": "gelu_new"}.get(name, name)
    fields = _fields(path, "text_config", T5Config, section)
    fields.setdefault("num_decoder_layers", fields.get("num_layers", T5Config.num_layers))
    fields |= {"activation": activation, "scale_outputs": section.get("tie_word_embeddings") is not False}
    return T5Config(**fields)


def parse(path: Path) -> InstructBlipConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(f"{path}: model_type is {kind!r}; this reads {' and '.join(sorted(MODEL_TYPES))}")
    sections = {}
    for name in ("vision_config", "qformer_config", "text_config"):
        sections[name] = raw.get(name) or {}
        if not isinstance(sections[name], dict):
            raise ValueError(f"{path}: {name} is not an object")
    family = sections["text_config"].get("model_type", "t5" if kind == "instructblip" else "opt")
    if family != "t5":
        raise ValueError(f"{path}: text_config.model_type is {family!r}; the language models read here are t5 (FlanT5)")
    vision = VitConfig(**_fields(path, "vision_config", VitConfig, sections["vision_config"]))
    # Hugging Face overwrites encoder_hidden_size with the vision width whatever the file says.
    qformer_fields = _fields(path, "qformer_config", QFormerConfig, sections["qformer_config"]) | {
        "encoder_hidden_size": vision.hidden_size,
        "use_text": MODEL_TYPES[kind],
    }
    qformer = QFormerConfig(**qformer_fields)
    text = _t5(path, sections["text_config"])
    for name, value in (
        ("vision_config.hidden_act", vision.hidden_act),
        ("qformer_config.hidden_act", qformer.hidden_act),
        ("text_config.dense_act_fn", text.activation),
    ):
        if value not in ACTIVATIONS:
            raise ValueError(f"{path}: {name} is {value!r}; known are {', '.join(ACTIVATIONS)}")
    if vision.image_size % vision.patch_size:
        raise ValueError(
            f"{path}: vision_config.image_size {vision.image_size} is not a multiple of patch_size {vision.patch_size}"
        )
    _check_divisible(path, "vision_config", vision.hidden_size, vision.num_attention_heads)
    _check_divisible(path, "qformer_config", qformer.hidden_size, qformer.num_attention_heads)
    queries = _checked(path, "num_query_tokens", raw.get("num_query_tokens", 32), int)
    return InstructBlipConfig(vision, qformer, text, num_query_tokens=queries)


def _check_divisible(path: Path, section: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{path}: {section}.hidden_size {width} is not a multiple of num_attention_heads {heads}")
