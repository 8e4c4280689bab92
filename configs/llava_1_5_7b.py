"""LLaVA-1.5-7B as its paper trained it (arXiv 2310.03744): stage 2, projector and language model on the 665K mixture.

It starts from the public model; to reproduce the paper, start from the export of stage 1, --config.model=DIR. Stage 1
trains only the projector, on 558K captions. Its model is a directory of the two towers and a new projector, made by

    instructblip assemble llava --vision openai/clip-vit-large-patch14-336 --language lmsys/vicuna-7b-v1.5 \\
        --out llava-1.5-7b-new

docs/plan.md has time and memory of the variants named after a slice.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.llava import paper

ASSEMBLED = "llava-1.5-7b-new"
VARIANTS: dict[str, tuple[str, dict]] = {
    "": ("stage2", {}),
    "stage1": ("stage1", {"model": ASSEMBLED, "int8": True}),
    "lora": ("lora", {}),
    "stage1_v5e_4x4": ("stage1", {"model": ASSEMBLED, "int8": True, "optim.accumulation": 2}),
    "stage2_v5e_8x8": ("stage2", {"remat": "products:1300"}),
    # One chip has no room for adapters of the paper's rank in addition to the frozen model, even in int8.
    "lora_v5e_1x1": (
        "lora",
        {"int8": True, "optim.accumulation": 128, "system.lora.rank": 64, "system.lora.alpha": 128},
    ),
    "lora_gpu_1": ("lora", {"remat": "products:1300", "optim.accumulation": 16, "scan_layers": False}),
}


def get_config(variant: str = "") -> ConfigDict:
    """A stage on one of its slices."""
    return paper("llava-hf/llava-1.5-7b-hf", "1.5", 576, VARIANTS, variant)
