"""Q-Former, query tokens and projection: their ``qformer.``, ``query_tokens``, ``language_projection``."""

from instructblip_jax.convert.rule import LEADING, Rule, dense, norm
from instructblip_jax.models.qformer import QFormerConfig


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
    for n in range(config.num_hidden_layers):
        ours, theirs = f"qformer/layers/{n}", f"qformer.encoder.layer.{n}"
        table += _attention(f"{ours}/self_attention", f"{theirs}.attention")
        table += _feed_forward(f"{ours}/query_ffn", theirs, "_query")
        if n % config.cross_attention_frequency == 0:
            table += _attention(f"{ours}/cross_attention", f"{theirs}.crossattention")
        if config.use_text:
            table += _feed_forward(f"{ours}/text_ffn", theirs, "")
    return table
