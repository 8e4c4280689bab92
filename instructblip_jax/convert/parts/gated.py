"""Gated cross-attention, with the tensor names of OpenFlamingo and of Idefics."""

import dataclasses

from instructblip_jax.convert.parts.resampler import keys_values
from instructblip_jax.convert.rule import Rule, Transform, dense, norm

VECTOR = Transform(lambda s: (1, 1, *s), lambda x: x[0, 0], lambda x: x[None, None])
"""Theirs has two leading axes of one."""


def rules(ours: str, theirs: str, *, every: int, at: int) -> list[Rule]:
    """The table of OpenFlamingo's names, in which a block has the number of the layer that it precedes: ``at`` of each
    group of ``every``."""
    block = f"{theirs}{{layer}}."
    table = [
        Rule(f"{ours}attn_gate", f"{block}attn_gate"),
        Rule(f"{ours}ffn_gate", f"{block}ff_gate"),
        *norm(f"{ours}attn_norm", f"{block}attn.norm"),
        *dense(f"{ours}attn/q", f"{block}attn.to_q", bias=False),
        *keys_values(f"{ours}attn", f"{block}attn.to_kv"),
        *dense(f"{ours}attn/o", f"{block}attn.to_out", bias=False),
        *norm(f"{ours}ffn_norm", f"{block}ff.0"),
        *dense(f"{ours}up", f"{block}ff.1", bias=False),
        *dense(f"{ours}down", f"{block}ff.3", bias=False),
    ]
    return [dataclasses.replace(rule, every=every, start=at) for rule in table]


def idefics_rules(ours: str, theirs: str, *, vector_gates: bool) -> list[Rule]:
    """The table of Idefics' names, in which blocks are counted separately."""
    block = f"{theirs}{{layer}}."
    gates = (VECTOR,) if vector_gates else ()
    table = [
        Rule(f"{ours}attn_gate", f"{block}alpha_cross_attn", *gates),
        Rule(f"{ours}ffn_gate", f"{block}alpha_dense", *gates),
        *norm(f"{ours}attn_norm", f"{block}input_layernorm", bias=False),
        *norm(f"{ours}ffn_norm", f"{block}post_attention_layernorm", bias=False),
    ]
    for name in "qkvo":
        table += dense(f"{ours}attn/{name}", f"{block}cross_attn.{name}_proj", bias=False)
    for name in "qk":
        table += norm(f"{ours}attn/{name}_norm", f"{block}cross_attn.{name}_layer_norm", bias=False)
    for name in ("gate", "up", "down"):
        table += dense(f"{ours}{name}", f"{block}mlp.{name}_proj", bias=False)
    return table
