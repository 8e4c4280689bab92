"""LLaMA (and Vicuna)."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import check_divisible, checked, fields, must_be
from instructblip_jax.convert.rule import TRANSPOSE, Rule, dense, norm
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.processors.tokenizer import TextTokenizer


def read_config(path: Path, section: Mapping[str, Any]) -> LlamaConfig:
    """``text_config`` -> its dataclass. Raises ValueError naming file and field."""
    must_be(path, section, {"attention_bias": False, "mlp_bias": False})
    config = LlamaConfig(**fields(path, "text_config", LlamaConfig, {**section, **_rotary(path, section)}))
    if (path.parent / "tokenizer.json").is_file():
        # The public files' eos_token_id, 1, is not the end token of these models; the tokenizer has the right one. A
        # list of several is intended, and is kept.
        end, named = TextTokenizer(path.parent).end_id(path.parent), config.eos_token_id
        ends = end if isinstance(named, int) else (end, *(token for token in named if token != end))
        config = dataclasses.replace(config, eos_token_id=ends)
    if not config.head_dim:
        check_divisible(path, "text_config", config.hidden_size, config.num_attention_heads)
    if config.num_key_value_heads and config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            f"{path}: text_config.num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    return config


def _rotary(path: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """The base of the rotary positions, if the file names one.

    Newer files have it in rope_parameters, which takes precedence, together with the kind of scaling; the public files
    have none. Raises ValueError for any scaling.
    """
    field = "rope_scaling" if section.get("rope_scaling") else "rope_parameters"
    rope = checked(path, f"text_config.{field}", section.get(field) or {}, dict)
    kind = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", section.get("partial_rotary_factor"))
    if kind != "default" or partial not in (None, 1) or any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(
            f"{path}: text_config.{field} is {rope or partial!r}; only plain rotary positions are supported, without "
            "scaling and alike in all layers"
        )
    return {} if rope.get("rope_theta") is None else {"rope_theta": rope["rope_theta"]}


def rules(ours: str, theirs: str) -> list[Rule]:
    """The table. The public weights are already permuted for half-split rotary positions."""
    block = f"{theirs}model.layers.{{layer}}"
    tokens = f"{theirs}model.embed_tokens.weight"
    table = [
        Rule(f"{ours}tokens/embedding", tokens),
        Rule(f"{ours}to_vocab/kernel", f"{theirs}lm_head.weight", TRANSPOSE, others=(tokens,)),
        *norm(f"{ours}norm", f"{theirs}model.norm", bias=False),
        *norm(f"{ours}layers/attn_norm", f"{block}.input_layernorm", bias=False),
        *norm(f"{ours}layers/ffn_norm", f"{block}.post_attention_layernorm", bias=False),
    ]
    for short in "qkvo":
        table += dense(f"{ours}layers/attn/{short}", f"{block}.self_attn.{short}_proj", bias=False)
    for name in ("gate", "up", "down"):
        table += dense(f"{ours}layers/{name}", f"{block}.mlp.{name}_proj", bias=False)
    return table


def ignored(theirs: str) -> str:
    """Pattern of the extra tensors in old files: the rotary frequencies."""
    return rf"{re.escape(theirs)}model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
