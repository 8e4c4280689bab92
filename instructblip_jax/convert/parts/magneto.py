"""KOSMOS' decoder, under the names of Hugging Face's KOSMOS-2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert.config_fields import fields, must_be
from instructblip_jax.convert.rule import IDENTITY, TRANSPOSE, Rule, Transform, dense, norm
from instructblip_jax.models.language.magneto import POSITIONS, MagnetoConfig
from instructblip_jax.models.layers.primitives import ACTIVATIONS

RATES = ("dropout", "activation_dropout")


def read_config(path: Path, section: Mapping[str, Any]) -> MagnetoConfig:
    """``text_config`` -> its dataclass. Raises ValueError naming file and field."""
    must_be(path, section, {"add_cross_attention": False, "layerdrop": 0.0, "tie_word_embeddings": True})
    config = MagnetoConfig(**fields(path, "text_config", MagnetoConfig, section))
    for name, known in (("activation_function", tuple(ACTIVATIONS)), ("positions", POSITIONS)):
        if getattr(config, name) not in known:
            raise ValueError(
                f"{path}: text_config.{name} is {getattr(config, name)!r}; expected one of {', '.join(known)}"
            )
    for name in RATES:
        if getattr(config, name) >= 1:
            raise ValueError(f"{path}: text_config.{name} is {getattr(config, name)}; a rate is below 1")
    if config.embed_dim % (2 * config.attention_heads):
        raise ValueError(
            f"{path}: text_config.embed_dim {config.embed_dim} is not a multiple of twice the attention_heads "
            f"{config.attention_heads}, whose channels have positions in pairs"
        )
    return config


def rules(config: MagnetoConfig, ours: str, theirs: str) -> list[Rule]:
    """The table. The head is the embedding, so it has no rule of its own.

    xPos pairs are adjacent channels in the files, as in torchscale, and halves of a head here, as for `rope.rotate`.
    """
    block = f"{theirs}layers.{{layer}}"
    table = [
        Rule(f"{ours}tokens/embedding", f"{theirs}embed_tokens.weight"),
        *norm(f"{ours}norm", f"{theirs}layer_norm"),
        *norm(f"{ours}layers/attn_norm", f"{block}.self_attn_layer_norm"),
        *norm(f"{ours}layers/mixed_norm", f"{block}.self_attn.inner_attn_ln"),
        *norm(f"{ours}layers/ffn_norm", f"{block}.final_layer_norm"),
        *norm(f"{ours}layers/inner_norm", f"{block}.ffn.ffn_layernorm"),
        *dense(f"{ours}layers/attn/v", f"{block}.self_attn.v_proj"),
        *dense(f"{ours}layers/attn/o", f"{block}.self_attn.out_proj"),
        *dense(f"{ours}layers/up", f"{block}.ffn.fc1"),
        *dense(f"{ours}layers/down", f"{block}.ffn.fc2"),
    ]
    pairs = config.positions == "xpos"
    kernel, bias = (_in_halves(config.attention_heads, way) if pairs else way for way in (TRANSPOSE, IDENTITY))
    for short in "qk":
        there = f"{block}.self_attn.{short}_proj"
        table += [
            Rule(f"{ours}layers/attn/{short}/kernel", f"{there}.weight", kernel),
            Rule(f"{ours}layers/attn/{short}/bias", f"{there}.bias", bias),
        ]
    return table


def _in_halves(heads: int, then: Transform) -> Transform:
    """Their channels 2 i and 2 i + 1 of each head, along the first axis -> i and i + K / 2, and ``then``."""

    def swapped(x: np.ndarray, *split: int) -> np.ndarray:
        return x.reshape(heads, *split, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    return Transform(
        then.shape, lambda x: then.load(swapped(x, -1, 2)), lambda x: swapped(np.asarray(then.save(x)), 2, -1)
    )
