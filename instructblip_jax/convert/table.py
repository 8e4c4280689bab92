"""The whole table of a model: every parameter of ours, every tensor of theirs, and what old files hold on top."""

import re
from collections.abc import Callable

from instructblip_jax.convert.parts import eva_vit, llama, opt, qformer, t5
from instructblip_jax.convert.rule import Rule
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.systems.instructblip import InstructBlipConfig

IGNORED = re.compile(
    r"qformer\.embeddings\.position_ids"
    r"|language_model\.(encoder|decoder)\.embed_tokens\.weight"
    r"|language_model\.decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    r"|language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    r"|language_model\.lm_head\.weight"  # OPT's, whose head is the embedding; for the others it is a row of the table
)
"""Buffers, aliases and a never-used table that files of 2023 hold; anything else that no rule names is an error."""
LANGUAGE_MODELS: dict[type, Callable[[], list[Rule]]] = {
    T5Config: t5.rules,
    LlamaConfig: llama.rules,
    OptConfig: opt.rules,
}


def rules(config: InstructBlipConfig) -> dict[str, Rule]:
    """Path of ours -> its rule."""
    table = eva_vit.rules(config.vision) + qformer.rules(config.qformer) + LANGUAGE_MODELS[type(config.text)]()
    return {rule.ours: rule for rule in table}
