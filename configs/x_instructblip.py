"""X-InstructBLIP as its authors trained it (arXiv 2311.18799), a modality a run: image, video, audio or pc, through
Vicuna-7B, or with "_13b" through Vicuna-13B.

Each begins from a directory that `instructblip assemble x-instructblip` makes of Vicuna, BERT, BLIP-2's first stage and
the modality's tower (docs/x_instructblip.md). Runs of several modalities become one model the same way. What follows a
modality's name is the slice it runs on; docs/x_instructblip.md has its time and memory.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.x_instructblip import RUNS, paper

# 16 GB of a chip hold the language model in bytes; 95 GB hold it as it is.
SLICES: dict[str, dict] = {
    "": {},
    "_13b": {},
    "_v5e_4x4": {"int8": True, "remat": "products"},
    "_v5p_2x2x2": {"remat": "products"},
}
VARIANTS: dict[str, dict] = {f"{name}{ending}": changes for name in RUNS for ending, changes in SLICES.items()}
# Its 8 rows a chip are twice those of other modalities: longer ones keep less.
VARIANTS["pc_v5e_4x4"] = VARIANTS["pc_v5e_4x4"] | {"remat": "products:192"}


def get_config(variant: str = "audio") -> ConfigDict:
    """A modality's run, on one of its slices."""
    return paper(VARIANTS, variant or "audio")
