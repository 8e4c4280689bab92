"""LLaVA-1.0-7B as its paper trained it (arXiv 2304.08485): stage 2, projector and language model on 158K conversations.

No public directory has it in this layout. Stage 1 trains only the projector, on 595K captions, starting from

    instructblip assemble llava --vision openai/clip-vit-large-patch14 --language lmsys/vicuna-7b-v1.3 \\
        --projector linear --out llava-1.0-7b-new

and stage 2 starts from the export of stage 1, --config.model=DIR.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.llava import paper

VARIANTS: dict[str, tuple[str, dict]] = {
    "": ("stage2", {"model": "llava-1.0-7b-stage1"}),
    "stage1": ("stage1", {"int8": True}),
}


def get_config(variant: str = "") -> ConfigDict:
    """A stage on one of its slices."""
    return paper("llava-1.0-7b-new", "1.0", 256, VARIANTS, variant)
