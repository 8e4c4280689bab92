"""OPT: their ``language_model.`` <-> our ``llm/``."""

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


def rules() -> list[Rule]:
    """The table of the language model. The head is the embedding; old files hold a copy of it, which is not read."""
    decoder = "language_model.model.decoder"
    block = f"{decoder}.layers.{{layer}}"
    table = [
        Rule("llm/tokens/embedding", f"{decoder}.embed_tokens.weight"),
        Rule("llm/position/embedding", f"{decoder}.embed_positions.weight"),
        *norm("llm/norm", f"{decoder}.final_layer_norm"),
        *norm("llm/layers/attn_norm", f"{block}.self_attn_layer_norm"),
        *norm("llm/layers/ffn_norm", f"{block}.final_layer_norm"),
        *dense("llm/layers/attn/o", f"{block}.self_attn.out_proj"),
        *dense("llm/layers/up", f"{block}.fc1"),
        *dense("llm/layers/down", f"{block}.fc2"),
    ]
    for short in "qkv":
        table += dense(f"llm/layers/attn/{short}", f"{block}.self_attn.{short}_proj")
    return table
