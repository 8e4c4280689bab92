"""Q-Former: BERT layers with cross-attention, with a text half (InstructBLIP) or without one (BLIP-2)."""

import dataclasses
import re

from instructblip_jax.convert.rule import Rule, dense, norm
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


def rules(
    config: QFormerConfig, ours: str, theirs: str, *, embeddings: str | None = None, first_norm: str | None = None
) -> list[Rule]:
    """The table. The query tokens and the projection after it belong to the layout.

    ``embeddings``, ``first_norm``: name prefixes of a text half's embeddings and of the first norm, if they differ from
    InstructBLIP's and BLIP-2's.
    """
    embeddings = embeddings or f"{theirs}embeddings."
    table = norm(f"{ours}norm", first_norm or (f"{embeddings}layernorm" if config.use_text else f"{theirs}layernorm"))
    if config.use_text:
        table += [
            Rule(f"{ours}word/embedding", f"{embeddings}word_embeddings.weight"),
            Rule(f"{ours}position/embedding", f"{embeddings}position_embeddings.weight"),
        ]
    layer = f"{theirs}encoder.layer.{{layer}}"
    table += _attention(f"{ours}layers/self_attention", f"{layer}.attention")
    table += _feed_forward(f"{ours}layers/query_ffn", layer, "_query")
    if config.use_text:
        table += _feed_forward(f"{ours}layers/text_ffn", layer, "")
    cross = _attention(f"{ours}cross_attention", f"{layer}.crossattention")
    return table + [dataclasses.replace(rule, every=config.cross_attention_frequency) for rule in cross]


def ignored(theirs: str) -> str:
    """Pattern of the extra tensors in old files: position indices."""
    return rf"{re.escape(theirs)}embeddings\.position_ids"
