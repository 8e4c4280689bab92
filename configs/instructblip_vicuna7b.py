"""InstructBLIP (Vicuna-7B) as the paper trained it: 60,000 steps of 128 rows.

The variant after a colon is the slice it runs on; docs/plan.md has the time and memory of each.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import paper

VARIANTS: dict[str, dict] = {
    "": {"int8": True},
    # In 16 GB it fits in bfloat16 only in shards, and gathering these costs more.
    "v5e_4x4": {"int8": True, "remat": "products:224"},
    "v6e_4x4": {"remat": "products:288"},
    "v4_2x2x1": {},
    "v5p_2x2x1": {"remat": "products"},
    "gpu_8": {"remat": "products", "scan_layers": False},
}


def get_config(variant: str = "") -> ConfigDict:
    """The run on one of its slices."""
    return paper("Salesforce/instructblip-vicuna-7b", 128, VARIANTS, variant)
