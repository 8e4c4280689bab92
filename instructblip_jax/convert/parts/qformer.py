"""Q-Former, query tokens and projection: their ``qformer.``, ``query_tokens``, ``language_projection``."""

import dataclasses

from instructblip_jax.convert.rule import LEADING, Rule, dense, norm
from instructblip_jax.models.bridges.qformer import QFormerConfig


def _attention(ours: str, theirs: str) -> list[Rule]:
    table = []
    for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
        table += dense(f"{ours}/attn/{short}", f"{theirs}.attention.{name}")
    return [
        *table,
        *dense(f"{ours}/attn/o", f"{theirs}.output.dense"),
        *norm(f"{ours}/norm", f"{theirs}.output.LayerNorm"),
    ]


def _feed_forward(ours: str, layer: str, suffix: str) -> list[Rule]:
    return [
        *dense(f"{ours}/up", f"{layer}.intermediate{suffix}.dense"),
        *dense(f"{ours}/down", f"{layer}.output{suffix}.dense"),
        *norm(f"{ours}/norm", f"{layer}.output{suffix}.LayerNorm"),
    ]


def rules(config: QFormerConfig) -> list[Rule]:
    """The table of everything between the two towers. BLIP-2's Q-Former has no text half."""
    table = [
        Rule("query_tokens", "query_tokens", LEADING),
        *dense("projector", "language_projection"),
        *norm("qformer/norm", "qformer.embeddings.layernorm" if config.use_text else "qformer.layernorm"),
    ]
    if config.use_text:
        table += [
            Rule("qformer/word/embedding", "qformer.embeddings.word_embeddings.weight"),
            Rule("qformer/position/embedding", "qformer.embeddings.position_embeddings.weight"),
        ]
    layer = "qformer.encoder.layer.{layer}"
    table += _attention("qformer/layers/self_attention", f"{layer}.attention")
    table += _feed_forward("qformer/layers/query_ffn", layer, "_query")
    if config.use_text:
        table += _feed_forward("qformer/layers/text_ffn", layer, "")
    cross = _attention("qformer/cross_attention", f"{layer}.crossattention")
    return table + [dataclasses.replace(rule, every=config.cross_attention_frequency) for rule in cross]
