"""InstructBLIP (FlanT5-XXL) as the paper trained it: 60,000 steps of 64 rows.

The variant after a colon is the slice it runs on; docs/plan.md has the time and memory of each.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import paper

INT8 = {"int8": True}
"""22 GB of bfloat16 are too much for most chips, and with four rows per chip, reading them takes longer than
computing."""
VARIANTS: dict[str, dict] = {
    "": INT8,
    "v5e_4x4": INT8 | {"layout.vit": "fsdp", "mesh.data": 1, "mesh.fsdp": -1, "remat": "products:128"},
    "v6e_4x4": INT8 | {"remat": "products"},
    "v4_2x2x1": INT8 | {"remat": "products:96"},
    "v5p_2x2x1": {"remat": "products"},
    "gpu_8": {"remat": "products", "scan_layers": False},
}


def get_config(variant: str = "") -> ConfigDict:
    """The run on one of its slices."""
    return paper("Salesforce/instructblip-flan-t5-xxl", 64, VARIANTS, variant)
