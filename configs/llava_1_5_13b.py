"""LLaVA-1.5-13B as its paper trained it (arXiv 2310.03744): stage 2, projector and language model on the mix of 665K.

It begins from the public model; as published it begins from what stage 1 exported, --config.model=DIR. Stage 1 trains
the projector alone on 558K captions. Its model is a directory of the two towers and a new projector, made by

    instructblip assemble llava --vision openai/clip-vit-large-patch14-336 --language lmsys/vicuna-13b-v1.5 \\
        --out llava-1.5-13b-new

docs/plan.md has time and memory of variants that name a slice.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.llava import paper

ASSEMBLED = "llava-1.5-13b-new"
VARIANTS: dict[str, tuple[str, dict]] = {
    "": ("stage2", {}),
    "stage1": ("stage1", {"model": ASSEMBLED, "int8": True}),
    "lora": ("lora", {}),
}


def get_config(variant: str = "") -> ConfigDict:
    """A stage, on one of its slices."""
    return paper("llava-hf/llava-1.5-13b-hf", "1.5", 576, VARIANTS, variant)
