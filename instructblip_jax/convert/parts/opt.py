"""OPT."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import check_divisible, fields, must_be
from instructblip_jax.convert.rule import Rule, dense, norm
from instructblip_jax.models.language.opt import OptConfig


def read_config(path: Path, section: Mapping[str, Any]) -> OptConfig:
    """``text_config`` -> its dataclass. Raises ValueError naming file and field."""
    wanted = {"do_layer_norm_before": True, "enable_bias": True, "layer_norm_elementwise_affine": True}
    width = section.get("hidden_size", OptConfig.hidden_size)
    must_be(path, section, wanted | {"word_embed_proj_dim": width, "tie_word_embeddings": True})
    config = OptConfig(**fields(path, "text_config", OptConfig, section))
    check_divisible(path, "text_config", config.hidden_size, config.num_attention_heads)
    return config


def rules(ours: str, theirs: str) -> list[Rule]:
    """The table. The head is the embedding, so it has no rule of its own."""
    decoder = f"{theirs}model.decoder"
    block = f"{decoder}.layers.{{layer}}"
    table = [
        Rule(f"{ours}tokens/embedding", f"{decoder}.embed_tokens.weight"),
        Rule(f"{ours}position/embedding", f"{decoder}.embed_positions.weight"),
        *norm(f"{ours}norm", f"{decoder}.final_layer_norm"),
        *norm(f"{ours}layers/attn_norm", f"{block}.self_attn_layer_norm"),
        *norm(f"{ours}layers/ffn_norm", f"{block}.final_layer_norm"),
        *dense(f"{ours}layers/attn/o", f"{block}.self_attn.out_proj"),
        *dense(f"{ours}layers/up", f"{block}.fc1"),
        *dense(f"{ours}layers/down", f"{block}.fc2"),
    ]
    for short in "qkv":
        table += dense(f"{ours}layers/attn/{short}", f"{block}.self_attn.{short}_proj")
    return table


def ignored(theirs: str) -> str:
    """Pattern of the extra tensors in old files: a copy of the embedding as the head."""
    return rf"{re.escape(theirs)}lm_head\.weight"
