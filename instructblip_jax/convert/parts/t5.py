"""T5: their ``language_model.`` <-> our ``llm/``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked, fields
from instructblip_jax.convert.rule import TRANSPOSE, Rule, dense, norm
from instructblip_jax.models.language.t5 import T5Config


def read_config(path: Path, section: Mapping[str, Any]) -> T5Config:
    """``text_config`` -> its dataclass. Raises ValueError naming file and field."""
    proj = checked(path, "text_config.feed_forward_proj", section.get("feed_forward_proj", "relu"), str)
    gated, _, name = proj.rpartition("-")
    if gated != "gated":
        raise ValueError(f"{path}: text_config.feed_forward_proj is {name!r}; T5 v1.1 and FlanT5 are gated ones")
    # The explicit key wins: FlanT5 inside BLIP uses the exact GELU although feed_forward_proj says "gated-gelu".
    activation = section.get("dense_act_fn") or {"gelu": "gelu_new"}.get(name, name)
    found = fields(path, "text_config", T5Config, section)
    found.setdefault("num_decoder_layers", found.get("num_layers", T5Config.num_layers))
    # transformers 5 says so in a field of its own, beside a tie_word_embeddings that is true in all that it saves.
    if "scale_decoder_outputs" in section:
        scale = checked(path, "text_config.scale_decoder_outputs", section["scale_decoder_outputs"] or False, bool)
    else:
        scale = section.get("tie_word_embeddings") is not False
    return T5Config(**found, activation=activation, scale_outputs=scale)


def _attention(ours: str, theirs: str, name: str) -> list[Rule]:
    table = norm(f"{ours}/norm", f"{theirs}.layer_norm", bias=False)
    for short in "qkvo":
        table += dense(f"{ours}/attn/{short}", f"{theirs}.{name}.{short}", bias=False)
    return table


def _feed_forward(ours: str, theirs: str) -> list[Rule]:
    table = norm(f"{ours}/norm", f"{theirs}.layer_norm", bias=False)
    for short, name in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
        table += dense(f"{ours}/{short}", f"{theirs}.DenseReluDense.{name}", bias=False)
    return table


def rules() -> list[Rule]:
    """The table of the language model. Files without a head of their own are tied: the head is the embedding."""
    shared = "language_model.shared.weight"
    aliases = ("language_model.encoder.embed_tokens.weight", "language_model.decoder.embed_tokens.weight")
    table = [
        Rule("llm/shared/embedding", shared, others=aliases),
        Rule("llm/head/kernel", "language_model.lm_head.weight", TRANSPOSE, others=(shared, *aliases)),
    ]
    for side in ("encoder", "decoder"):
        ours, theirs = f"llm/{side}", f"language_model.{side}"
        block = f"{theirs}.block.{{layer}}.layer"
        first = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table += [Rule(f"{ours}/relative", first), *norm(f"{ours}/norm", f"{theirs}.final_layer_norm", bias=False)]
        table += _attention(f"{ours}/layers/self_attention", f"{block}.0", "SelfAttention")
        if side == "decoder":
            table += _attention(f"{ours}/layers/cross_attention", f"{block}.1", "EncDecAttention")
        table += _feed_forward(f"{ours}/layers/ffn", f"{block}.{2 if side == 'decoder' else 1}")
    return table
