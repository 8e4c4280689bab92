"""BLIP-2's second stage with ViT-g as its paper trained it (arXiv 2301.12597): 80,000 steps on a frozen language model.

The variant names the language model. The run starts from the first stage's Q-Former and this language model, made from
the export of stage 1 by

    instructblip assemble blip-2 --qformer blip2-stage1 --language facebook/opt-2.7b --out blip2-opt-2.7b-new

(google/flan-t5-xl -> blip2-flan-t5-xl-new, and so on). docs/blip2.md has the whole procedure.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.blip2 import chosen, second_stage

OPT, FLAN_T5 = 1920, 1520
"""The paper's batches."""
VARIANTS: dict[str, tuple[str, int]] = {
    "opt_2.7b": ("blip2-opt-2.7b-new", OPT),
    "opt_6.7b": ("blip2-opt-6.7b-new", OPT),
    "flan_t5_xl": ("blip2-flan-t5-xl-new", FLAN_T5),
    "flan_t5_xxl": ("blip2-flan-t5-xxl-new", FLAN_T5),
}


def get_config(variant: str = "flan_t5_xl") -> ConfigDict:
    """Stage 2 with one of the language models."""
    model, batch_size = chosen("blip2_stage2", VARIANTS, variant)
    return second_stage(model, batch_size, continued=batch_size == FLAN_T5, changes={})
