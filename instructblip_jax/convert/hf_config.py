"""A public ``config.json`` -> our dataclasses. Sparse files rely on Hugging Face's class defaults, which ours are."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.files import read_json
from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.processors.tokenizer import TextTokenizer
from instructblip_jax.systems.instructblip import InstructBlipConfig, TextConfig

MODEL_TYPES = {"instructblip": True, "instructblipvideo": True, "blip-2": False}
"""Model types this reads -> whether their Q-Former has a text half."""
LARGEST = float(np.finfo(np.float32).max)
"""Numbers are computed with in float32."""


def _checked(path: Path, field: str, value: Any, kind: type) -> Any:
    """``value``, if it is of its type: a count of at least 1, an id of at least 0, or a finite number of at least 0.

    Raises ValueError naming file and field.
    """
    number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if not (number if kind in (int, float) else isinstance(value, kind)):
        raise ValueError(f"{path}: {field} is {value!r}, not of type {kind.__name__}")
    least = 0 if kind is float or field.partition("[")[0].endswith("_id") else 1
    if kind is int and value < least:
        raise ValueError(f"{path}: {field} is {value}; it must be at least {least}")
    if kind is float and not least <= value <= LARGEST:  # false for NaN
        raise ValueError(f"{path}: {field} is {value}; it must be a finite number of at least {least}")
    return value


def _ends(path: Path, field: str, value: Any) -> int | tuple[int, ...]:
    """One end token, or several. Raises ValueError as `_checked` does."""
    if not isinstance(value, list):
        return _checked(path, field, value, int)
    if not value:
        raise ValueError(f"{path}: {field} is an empty list; name a token that ends an answer, or leave it out")
    return tuple(_checked(path, f"{field}[{n}]", token, int) for n, token in enumerate(value))


def _fields(path: Path, name: str, config_class: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """What section ``name`` says of the fields of ``config_class``; null counts as not said, and so does the
    padding id -1 of older LLaMA files."""
    return {
        field: _ends(path, f"{name}.{field}", section[field])
        if field == "eos_token_id"
        else _checked(path, f"{name}.{field}", section[field], kind)
        for field, kind in typing.get_type_hints(config_class).items()
        if section.get(field) is not None and not (field == "pad_token_id" and section[field] == -1)
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
    # transformers 5 says so in a field of its own, beside a tie_word_embeddings that is true in all that it saves.
    if "scale_decoder_outputs" in section:
        scale = _checked(path, "text_config.scale_decoder_outputs", section["scale_decoder_outputs"] or False, bool)
    else:
        scale = section.get("tie_word_embeddings") is not False
    return T5Config(**fields, activation=activation, scale_outputs=scale)


def _must_be(path: Path, section: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError where a field of text_config asks for a form that is not built here; absent or null is fine."""
    for field, value in wanted.items():
        if section.get(field) is not None and section[field] != value:
            raise ValueError(f"{path}: text_config.{field} is {section[field]!r}; only {value!r} is read here")


def _llama(path: Path, section: Mapping[str, Any]) -> LlamaConfig:
    _must_be(path, section, {"attention_bias": False, "mlp_bias": False})
    config = LlamaConfig(**_fields(path, "text_config", LlamaConfig, {**section, **_rotary(path, section)}))
    if (path.parent / "tokenizer.json").is_file():
        # The public files' eos_token_id, 1, is not what these models end with; their tokenizer knows. Whoever lists
        # several has thought about it.
        end, named = TextTokenizer(path.parent).end_id(path.parent), config.eos_token_id
        ends = end if isinstance(named, int) else (end, *(token for token in named if token != end))
        config = dataclasses.replace(config, eos_token_id=ends)
    if not config.head_dim:
        _check_divisible(path, "text_config", config.hidden_size, config.num_attention_heads)
    if config.num_key_value_heads and config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            f"{path}: text_config.num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    return config


def _rotary(path: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """The base of the rotary positions, if the file says one.

    Newer files keep it under rope_parameters, which then wins, with the kind of scaling, of which the public files
    have none. Raises ValueError for any scaling.
    """
    field = "rope_scaling" if section.get("rope_scaling") else "rope_parameters"
    rope = _checked(path, f"text_config.{field}", section.get(field) or {}, dict)
    kind = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", section.get("partial_rotary_factor"))
    if kind != "default" or partial not in (None, 1) or any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(
            f"{path}: text_config.{field} is {rope or partial!r}; only plain rotary positions are read here, without "
            "scaling and alike in all layers"
        )
    return {} if rope.get("rope_theta") is None else {"rope_theta": rope["rope_theta"]}


def _opt(path: Path, section: Mapping[str, Any]) -> OptConfig:
    wanted = {"do_layer_norm_before": True, "enable_bias": True, "layer_norm_elementwise_affine": True}
    width = section.get("hidden_size", OptConfig.hidden_size)
    _must_be(path, section, wanted | {"word_embed_proj_dim": width, "tie_word_embeddings": True})
    config = OptConfig(**_fields(path, "text_config", OptConfig, section))
    _check_divisible(path, "text_config", config.hidden_size, config.num_attention_heads)
    return config


TEXT: dict[str, Callable[[Path, Mapping[str, Any]], TextConfig]] = {"t5": _t5, "llama": _llama, "opt": _opt}
"""text_config.model_type -> its reader."""


def parse(path: Path) -> InstructBlipConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(f"{path}: model_type is {kind!r}; this reads {', '.join(sorted(MODEL_TYPES))}")
    sections = {}
    for name in ("vision_config", "qformer_config", "text_config"):
        sections[name] = raw.get(name) or {}
        if not isinstance(sections[name], dict):
            raise ValueError(f"{path}: {name} is not an object")
    family = text_family(raw)
    if family not in TEXT:
        raise ValueError(
            f"{path}: text_config.model_type is {family!r}; the language models read here are {', '.join(sorted(TEXT))}"
        )
    vision = VitConfig(**_fields(path, "vision_config", VitConfig, sections["vision_config"]))
    # Hugging Face overwrites encoder_hidden_size with the vision width whatever the file says.
    qformer_fields = _fields(path, "qformer_config", QFormerConfig, sections["qformer_config"]) | {
        "encoder_hidden_size": vision.hidden_size,
        "use_text": MODEL_TYPES[kind],
    }
    qformer = QFormerConfig(**qformer_fields)
    text = TEXT[family](path, sections["text_config"])
    named = {"vision_config.hidden_act": vision.hidden_act, "qformer_config.hidden_act": qformer.hidden_act}
    for field, ours in (("dense_act_fn", "activation"), ("hidden_act", "hidden_act"), ("activation_function",) * 2):
        if hasattr(text, ours):
            named[f"text_config.{field}"] = getattr(text, ours)
    for name, value in named.items():
        if value not in ACTIVATIONS:
            raise ValueError(f"{path}: {name} is {value!r}; known are {', '.join(ACTIVATIONS)}")
    if vision.image_size % vision.patch_size:
        raise ValueError(
            f"{path}: vision_config.image_size {vision.image_size} is not a multiple of patch_size {vision.patch_size}"
        )
    _check_divisible(path, "vision_config", vision.hidden_size, vision.num_attention_heads)
    _check_divisible(path, "qformer_config", qformer.hidden_size, qformer.num_attention_heads)
    queries = _checked(path, "num_query_tokens", raw.get("num_query_tokens", 32), int)
    token = next((raw[name] for name in IMAGE_TOKENS[kind] if raw.get(name) is not None), None)
    token = -1 if token is None else _checked(path, "image_token_index", token, int)
    return InstructBlipConfig(vision, qformer, text, num_query_tokens=queries, image_token_id=token)


IMAGE_TOKENS = {
    "instructblip": ("image_token_index", "image_token_id"),
    "instructblipvideo": ("video_token_index", "video_token_id"),
    "blip-2": ("image_token_index", "image_token_id"),
}
"""model_type -> the fields that may name the placeholder of the visual prompt."""


def text_family(raw: Mapping[str, Any]) -> str:
    """The language model's model_type; sparse files leave it to Hugging Face's class default, OPT."""
    return (raw.get("text_config") or {}).get("model_type", "opt")


def _check_divisible(path: Path, section: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{path}: {section}.hidden_size {width} is not a multiple of num_attention_heads {heads}")
