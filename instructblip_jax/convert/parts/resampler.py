"""Perceiver resampler, with the tensor names of OpenFlamingo and of Idefics."""

import dataclasses

from instructblip_jax.convert.rule import TRANSPOSE, Rule, Transform, dense, norm

SPREAD = Transform(lambda s: (s[0], 1, *s[1:]), lambda x: x[:, 0], lambda x: x[:, None])
"""Theirs has a second axis of one."""
KEYS_VALUES = tuple(dataclasses.replace(TRANSPOSE, part=part, parts=2) for part in range(2))
"""Keys and values from one matrix, with the keys' rows first."""


def rules(ours: str, theirs: str) -> list[Rule]:
    """The table of OpenFlamingo's names."""
    block, layer = f"{theirs}layers.{{layer}}", f"{ours}layers"
    return [
        Rule(f"{ours}latents", f"{theirs}latents"),
        Rule(f"{ours}frames", f"{theirs}frame_embs"),
        Rule(f"{ours}media", f"{theirs}media_time_embs", SPREAD),
        *norm(f"{layer}/media_norm", f"{block}.0.norm_media"),
        *norm(f"{layer}/latents_norm", f"{block}.0.norm_latents"),
        *dense(f"{layer}/attn/q", f"{block}.0.to_q", bias=False),
        *keys_values(f"{layer}/attn", f"{block}.0.to_kv"),
        *dense(f"{layer}/attn/o", f"{block}.0.to_out", bias=False),
        *norm(f"{layer}/ffn_norm", f"{block}.1.0"),
        *dense(f"{layer}/up", f"{block}.1.1", bias=False),
        *dense(f"{layer}/down", f"{block}.1.3", bias=False),
        *norm(f"{ours}norm", f"{theirs}norm"),
    ]


def keys_values(ours: str, theirs: str) -> list[Rule]:
    """The rules of keys and values that are one matrix in the files."""
    return [Rule(f"{ours}/{name}/kernel", f"{theirs}.weight", KEYS_VALUES[n]) for n, name in enumerate("kv")]


def idefics_rules(ours: str, theirs: str) -> list[Rule]:
    """The table of Idefics' names."""
    block, layer = f"{theirs}blocks.{{layer}}", f"{ours}layers"
    table = [
        Rule(f"{ours}latents", f"{theirs}latents"),
        *norm(f"{layer}/media_norm", f"{block}.0.context_layer_norm"),
        *norm(f"{layer}/latents_norm", f"{block}.0.latents_layer_norm"),
        *dense(f"{layer}/attn/o", f"{block}.0.output_proj", bias=False),
        *norm(f"{layer}/ffn_norm", f"{block}.1.ln"),
        *dense(f"{layer}/up", f"{block}.1.fc", bias=False),
        *dense(f"{layer}/down", f"{block}.1.c_proj", bias=False),
        *norm(f"{ours}norm", f"{theirs}layer_norm"),
    ]
    for name in "qkv":
        table += dense(f"{layer}/attn/{name}", f"{block}.0.{name}_proj", bias=False)
    for name in "qk":
        table += norm(f"{layer}/attn/{name}_norm", f"{block}.0.{name}_layer_norm")
    return table
