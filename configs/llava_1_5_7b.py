"""LLaVA-1.5-7B as its paper trained it (arXiv 2310.03744): stage 2, projector and language model on the mix of 665K.

`:stage1` trains the projector alone on 558K captions. It starts from a directory of the two towers and a new projector,
which `instructblip assemble llava --vision openai/clip-vit-large-patch14-336 --language lmsys/vicuna-7b-v1.5
--out models/llava_1_5_7b` makes; stage 2 as published then starts from what stage 1 exported, given by --config.model.
A variant that names a slice runs there; docs/plan.md has time and memory.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.llava import paper

ASSEMBLED = "models/llava_1_5_7b"
VARIANTS: dict[str, tuple[str, dict]] = {
    "": ("stage2", {}),
    "stage1": ("stage1", {"model": ASSEMBLED, "int8": True}),
}


def get_config(variant: str = "") -> ConfigDict:
    """A stage, on one of its slices."""
    return paper("llava-hf/llava-1.5-7b-hf", "1.5", 576, VARIANTS, variant)
