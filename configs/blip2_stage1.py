"""BLIP-2's first stage with ViT-g as its paper trained it (arXiv 2301.12597): 250,000 steps of 1,680 images.

It starts from a new Q-Former over a frozen tower, made by

    instructblip assemble blip-2 --vision Salesforce/blip2-flan-t5-xl --bert google-bert/bert-base-uncased \\
        --out blip2-stage1-new

The variant "retrieval" is the subsequent fine-tuning on COCO, including the tower. It starts from the export of stage
1, --config.model=DIR, or from the authors' file (instructblip convert --original). Variants named after a slice run
stage 1 on it; docs/plan.md has their time and memory, docs/blip2.md the whole procedure.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.blip2 import chosen, first_stage, retrieval

MODEL = "blip2-stage1-new"
VARIANTS: dict[str, dict] = {
    "": {},
    "retrieval": {},
    "v5e_4x4": {},
    "v5p_2x2x4": {"remat": "none"},
}


def get_config(variant: str = "") -> ConfigDict:
    """Stage 1 on one of its slices, or the fine-tuning for retrieval."""
    changes = chosen("blip2_stage1", VARIANTS, variant)
    return (retrieval if variant == "retrieval" else first_stage)(MODEL, changes)
