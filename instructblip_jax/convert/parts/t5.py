"""T5 v1.1 and FlanT5."""

import re
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
        raise ValueError(
            f"{path}: text_config.feed_forward_proj is {name!r}; only T5 v1.1 and FlanT5 (gated) are supported"
        )
    # The explicit key wins: FlanT5 inside BLIP uses the exact GELU although feed_forward_proj is "gated-gelu".
    activation = section.get("dense_act_fn") or {"gelu": "gelu_new"}.get(name, name)
    found = fields(path, "text_config", T5Config, section)
    found.setdefault("num_decoder_layers", found.get("num_layers", T5Config.num_layers))
    # transformers 5 has a field for it, and writes tie_word_embeddings=true into every file.
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


def rules(ours: str, theirs: str) -> list[Rule]:
    """The table. If files have no head, it is tied to the embedding."""
    shared = f"{theirs}shared.weight"
    aliases = (f"{theirs}encoder.embed_tokens.weight", f"{theirs}decoder.embed_tokens.weight")
    table = [
        Rule(f"{ours}shared/embedding", shared, others=aliases),
        Rule(f"{ours}head/kernel", f"{theirs}lm_head.weight", TRANSPOSE, others=(shared, *aliases)),
    ]
    for side in ("encoder", "decoder"):
        part, stack = f"{ours}{side}", f"{theirs}{side}"
        block = f"{stack}.block.{{layer}}.layer"
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table += [Rule(f"{part}/relative", first), *norm(f"{part}/norm", f"{stack}.final_layer_norm", bias=False)]
        table += _attention(f"{part}/layers/self_attention", f"{block}.0", "SelfAttention")
        if side == "decoder":
            table += _attention(f"{part}/layers/cross_attention", f"{block}.1", "EncDecAttention")
        table += _feed_forward(f"{part}/layers/ffn", f"{block}.{2 if side == 'decoder' else 1}")
    return table


def ignored(theirs: str) -> str:
    """Pattern of the extra tensors in old files: aliases of the embedding, and a table that is never used."""
    never_used = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    return rf"{re.escape(theirs)}((encoder|decoder)\.embed_tokens\.weight|{never_used})"
