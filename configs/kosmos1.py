"""KOSMOS-1 as its paper trained it (arXiv 2302.14045).

It begins from CLIP's tower and a decoder that is drawn anew, made by

    instructblip assemble kosmos-1 --vision openai/clip-vit-large-patch14 --language DIR --out kosmos-1-new
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.kosmos import corpus

MODEL = "kosmos-1-new"


def get_config(variant: str = "") -> ConfigDict:
    return corpus(MODEL, variant, {})
