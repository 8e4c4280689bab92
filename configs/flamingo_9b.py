"""A Flamingo of 9B as its paper trained it (arXiv 2204.14198): LLaMA-7B with a gated block before every fourth layer.

It starts from new blocks and a new resampler between two frozen models, made by

    instructblip assemble flamingo --vision openai/clip-vit-large-patch14 --language LLAMA_7B --out flamingo-9b-new

The variant "3b" is the paper's smallest, over facebook/opt-1.3b with a block before every layer (--every 1). Variants
named after a slice run on it with web pages only; docs/plan.md has their time and memory.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.flamingo import paper

VARIANTS: dict[str, dict] = {
    "": {},
    "3b": {"model": "flamingo-3b-new"},
    "v5e_4x4": {"int8": True, "optim.accumulation": 2},
    "v5p_2x2x4": {"remat": "products"},
}


def get_config(variant: str = "") -> ConfigDict:
    """The run on one of its slices."""
    return paper("flamingo-9b-new", VARIANTS, variant, pages=256, pairs=0 if variant.startswith("v5") else 512)
