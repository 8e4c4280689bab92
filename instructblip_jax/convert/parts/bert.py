"""BERT with cross-attention, under the names of ALBEF, BLIP and Hugging Face."""

import dataclasses

from instructblip_jax.convert.rule import Rule, dense, norm
from instructblip_jax.models.language.bert import BertConfig


def embeddings(config: BertConfig, ours: str, theirs: str) -> list[Rule]:
    """The table of the embeddings."""
    names = [("word", "word_embeddings"), ("position", "position_embeddings")]
    table = [Rule(f"{ours}{name}/embedding", f"{theirs}embeddings.{other}.weight") for name, other in names]
    if config.token_types:
        table.append(Rule(f"{ours}token_type", f"{theirs}embeddings.token_type_embeddings.weight"))
    return [*table, *norm(f"{ours}norm", f"{theirs}embeddings.LayerNorm")]


def layers(ours: str, theirs: str, *, cross: bool, start: int = 0) -> list[Rule]:
    """The table of a stack whose first layer is their number ``start``. ``cross``: with cross-attention."""
    block = f"{theirs}encoder.layer.{{layer}}"
    table = [*attention(f"{ours}self_attention", f"{block}.attention")]
    if cross:
        table += attention(f"{ours}cross_attention", f"{block}.crossattention")
    table += [
        *dense(f"{ours}ffn/up", f"{block}.intermediate.dense"),
        *dense(f"{ours}ffn/down", f"{block}.output.dense"),
        *norm(f"{ours}ffn/norm", f"{block}.output.LayerNorm"),
    ]
    return [dataclasses.replace(rule, start=start) for rule in table]


def attention(ours: str, theirs: str) -> list[Rule]:
    """The table of a block of attention."""
    table = [*dense(f"{ours}/attn/o", f"{theirs}.output.dense"), *norm(f"{ours}/norm", f"{theirs}.output.LayerNorm")]
    for ours_name, name in zip("qkv", ("query", "key", "value"), strict=True):
        table += dense(f"{ours}/attn/{ours_name}", f"{theirs}.self.{name}")
    return table


def head(ours: str, theirs: str) -> list[Rule]:
    """The table of the language modelling head; its matrix is the word embeddings."""
    return [
        *dense(f"{ours}dense", f"{theirs}transform.dense"),
        *norm(f"{ours}norm", f"{theirs}transform.LayerNorm"),
        Rule(f"{ours}bias", f"{theirs}bias"),
    ]


def ignored(theirs: str) -> str:
    """Pattern of extra tensors in old files: position indices, and the head's tied matrix. ``theirs`` is a pattern."""
    return rf"{theirs}embeddings\.position_ids"


def ignored_head(theirs: str) -> str:
    """Pattern of a head's aliases: the tied matrix, and its bias under a second name. ``theirs`` is a pattern."""
    return rf"{theirs}decoder\.(weight|bias)"
