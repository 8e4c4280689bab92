"""The whole table of a model: every parameter of ours, every tensor of theirs, and what old files hold on top."""

import re

from instructblip_jax.convert import qformer, t5, vit
from instructblip_jax.convert.rule import Rule
from instructblip_jax.systems.instructblip import InstructBlipConfig

IGNORED = re.compile(
    r"qformer\.embeddings\.position_ids"
    r"|language_model\.(encoder|decoder)\.embed_tokens\.weight"
    r"|language_model\.decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)
"""Buffers, aliases and one never-used table that files of 2023 hold; anything else left over is an error."""


def rules(config: InstructBlipConfig) -> dict[str, Rule]:
    """Path of ours -> its rule."""
    table = vit.rules(config.vision) + qformer.rules(config.qformer) + t5.rules()
    return {rule.ours: rule for rule in table}
