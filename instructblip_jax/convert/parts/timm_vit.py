"""ViT under the names of the timm library, which ALBEF's and BLIP's own files use."""

import dataclasses

from instructblip_jax.convert.parts import eva_vit
from instructblip_jax.convert.rule import Rule
from instructblip_jax.models.towers.vit import VitConfig

NAMES = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers.", "blocks."),
    (".layer_norm", ".norm"),
    (".self_attn.qkv", ".attn.qkv"),
    (".self_attn.projection", ".attn.proj"),
    ("post_layernorm", "norm"),
)
"""Components of Hugging Face's names -> those of timm's; all others are equal."""


def rules(config: VitConfig, ours: str, theirs: str, *, stored_grid: int = 0) -> list[Rule]:
    """The table; see `eva_vit.rules`."""
    table = eva_vit.rules(config, ours, "", stored_grid=stored_grid)
    return [dataclasses.replace(rule, theirs=theirs + renamed(rule.theirs)) for rule in table]


def renamed(name: str) -> str:
    """A tensor's name in Hugging Face's layout, without its prefix -> timm's."""
    for theirs, timm in NAMES:
        name = name.replace(theirs, timm)
    return name


def hugging_face(config: VitConfig) -> dict[str, str]:
    """timm's name of each of a tower's tensors -> that in Hugging Face's layout, both without their prefixes."""
    table = eva_vit.rules(config, "", "")
    names = {name for rule in table for name in rule.names((config.num_hidden_layers,))}
    return {renamed(name): name for name in names}
