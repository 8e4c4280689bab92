"""LLaVA-1.5-13B as its paper trained it (arXiv 2310.03744): the stages of configs/llava_1_5_7b.py, which gives the
starting point of each; stage 1's language model is lmsys/vicuna-13b-v1.5."""

from ml_collections import ConfigDict

from instructblip_jax.recipes.llava import paper

ASSEMBLED = "llava-1.5-13b-new"
VARIANTS: dict[str, tuple[str, dict]] = {
    "": ("stage2", {}),
    "stage1": ("stage1", {"model": ASSEMBLED, "int8": True}),
    "lora": ("lora", {}),
}


def get_config(variant: str = "") -> ConfigDict:
    """A stage on one of its slices."""
    return paper("llava-hf/llava-1.5-13b-hf", "1.5", 576, VARIANTS, variant)
