"""X-InstructBLIP as its authors trained it (arXiv 2311.18799), one modality per run: image, video, audio or pc, with
Vicuna-7B, or with Vicuna-13B for the suffix "_13b".

Each run starts from a directory that `instructblip assemble x-instructblip` makes from Vicuna, BERT, BLIP-2's first
stage and the modality's tower (docs/x_instructblip.md). The same command combines runs of several modalities into one
model. A slice may follow a modality's name; docs/x_instructblip.md has its time and memory.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.x_instructblip import RUNS, paper

# In 16 GB the language model fits in int8; in 95 GB it fits unchanged.
SLICES: dict[str, dict] = {
    "": {},
    "_13b": {},
    "_v5e_4x4": {"int8": True, "remat": "products"},
    "_v5p_2x2x2": {"remat": "products"},
}
VARIANTS: dict[str, dict] = {f"{name}{ending}": changes for name in RUNS for ending, changes in SLICES.items()}
# It has 8 rows per chip, twice as many as other modalities, so longer rows store fewer activations.
VARIANTS["pc_v5e_4x4"] = VARIANTS["pc_v5e_4x4"] | {"remat": "products:192"}


def get_config(variant: str = "audio") -> ConfigDict:
    """A modality's run on one of its slices."""
    return paper(VARIANTS, variant or "audio")
