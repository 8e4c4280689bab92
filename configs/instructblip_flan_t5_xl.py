"""InstructBLIP (FlanT5-XL) as the paper trained it: 60,000 steps of 192 rows. The whole model fits on every chip.

The variant after a colon is the slice it runs on; docs/plan.md has the time and memory of each.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import paper

VARIANTS: dict[str, dict] = {
    "": {},
    "v5e_4x4": {"remat": "products:160"},
    "v6e_4x4": {"remat": "products"},
    "v4_2x2x1": {},
    "v5p_2x2x1": {"remat": "products"},
    "gpu_8": {"remat": "products", "scan_layers": False},
}


def get_config(variant: str = "") -> ConfigDict:
    """The run on one of its slices."""
    return paper("Salesforce/instructblip-flan-t5-xl", 192, VARIANTS, variant)
