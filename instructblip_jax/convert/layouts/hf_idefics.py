"""Hugging Face's layout of Idefics-1: a Flamingo with LLaMA, and separate rows for its added tokens."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked, one_of, section_of
from instructblip_jax.convert.layouts import looking
from instructblip_jax.convert.parts import clip_vit, gated, llama, resampler
from instructblip_jax.convert.rule import TRANSPOSE, Rule
from instructblip_jax.files import read_json
from instructblip_jax.models.bridges.gated import GatedConfig
from instructblip_jax.models.bridges.resampler import ResamplerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.systems.flamingo import FlamingoConfig

KIND = "idefics"
VIT, LLM = ("vit/", "model.vision_model."), ("llm/", "")
BLOCKS = "model.gated_cross_attn_layers."
TOWER = {
    "hidden_size": 768,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
"""Hugging Face's class defaults of a vision_config."""
RESAMPLER = {
    "resampler_n_latents": ("latents", 64),
    "resampler_depth": ("depth", 6),
    "resampler_n_heads": ("heads", 16),
    "resampler_head_dim": ("head_size", 96),
}
"""Field of a perceiver_config -> ours, and its class default."""
FORMS = {"alpha_type": ("float", "vector"), "cross_layer_activation_function": ("swiglu",)}
"""Field -> its supported values, the class default first."""


def read_config(path: Path) -> FlamingoConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    if raw.get("model_type") != KIND:
        raise ValueError(f"{path}: model_type is {raw.get('model_type')!r}; this layout is that of {KIND}")
    if "vision_embed_dim" in raw:
        raise ValueError(
            f"{path}: vision_embed_dim is a field of the first files of this model, which had other names; use its "
            "current files, whose vision_config has embed_dim"
        )
    forms = {field: one_of(path, field, raw.get(field) or known[0], known) for field, known in FORMS.items()}
    tower = section_of(path, raw, "vision_config")
    tower = {**TOWER, **tower, "hidden_size": tower.get("embed_dim", tower.get("hidden_size", TOWER["hidden_size"]))}
    vision = clip_vit.read_config(path, "vision_config", tower)
    text = llama.read_config(path, raw)
    added = checked(path, "additional_vocab_size", raw.get("additional_vocab_size", 0) or 0, int)
    every = checked(path, "cross_layer_interval", raw.get("cross_layer_interval", 1), int)
    if text.num_hidden_layers % every:
        raise ValueError(
            f"{path}: cross_layer_interval {every} does not divide num_hidden_layers {text.num_hidden_layers}"
        )
    return FlamingoConfig(
        vision,
        text,
        _resampler(path, raw, vision.hidden_size) if raw.get("use_resampler") else None,
        _gated(raw, text, vision.hidden_size, forms["alpha_type"]),
        every=every,
        at=0,
        known_tokens=text.vocab_size,
        added_tokens=added,
        fake_token_id=text.vocab_size,
        image_token_id=text.vocab_size + 1,
        class_token=True,
        **looking.sight_fields(path, raw),
    )


def _resampler(path: Path, raw: Mapping[str, Any], width: int) -> ResamplerConfig:
    section = section_of(path, raw, "perceiver_config")
    sizes = {
        ours: checked(path, f"perceiver_config.{field}", section.get(field, default), int)
        for field, (ours, default) in RESAMPLER.items()
    }
    norms = bool(section.get("qk_layer_norms_perceiver", False))
    return ResamplerConfig(width, activation="relu", head_norms=norms, **sizes)


def _gated(raw: Mapping[str, Any], text: LlamaConfig, media_width: int, alpha: str) -> GatedConfig:
    return GatedConfig(
        text.width,
        media_width,
        text.intermediate_size,
        text.num_attention_heads,
        text.head_dim or text.width // text.num_attention_heads,
        text.hidden_act,
        swiglu=True,
        epsilon=text.rms_norm_eps,
        head_norms=bool(raw.get("qk_layer_norms", False)),
        vector_gates=alpha == "vector",
    )


def rules(config: FlamingoConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    table = [
        *clip_vit.rules(config.vision, *VIT, stored_grid=config.stored_image_size // config.vision.patch_size),
        *resampler.idefics_rules("bridge/resampler/", "model.perceiver_resampler."),
        *gated.idefics_rules("bridge/layers/", BLOCKS, vector_gates=config.gated.vector_gates),
        *llama.rules(*LLM),
        Rule("added/tokens/embedding", "model.embed_tokens.additional_embedding.weight"),
        Rule("added/to_vocab/kernel", "lm_head.additional_fc.weight", TRANSPOSE),
    ]
    return {rule.ours: rule for rule in table}


def ignored(config: FlamingoConfig) -> re.Pattern[str]:
    """Names of extra tensors in old files: buffers."""
    rotary = rf"{re.escape(BLOCKS)}\d+\.cross_attn\.rotary_emb\.inv_freq"
    return re.compile(f"{clip_vit.ignored(re.escape(VIT[1]))}|{llama.ignored(LLM[1])}|{rotary}")


def unread(config: FlamingoConfig) -> re.Pattern[str]:
    """Names of the tensors of the tower's last norm, which is only for its class token."""
    return re.compile(clip_vit.unread(config.vision, re.escape(VIT[1])))


def describe(directory: Path, config: FlamingoConfig) -> None:
    """See `looking.describe`."""
    looking.describe(directory, config, {"image_size": config.vision.image_size})
