"""KOSMOS-1 as its paper trained it (arXiv 2302.14045): 300,000 steps from a decoder that is drawn anew.

It begins from CLIP's tower, a new connector and a new decoder, made by

    instructblip assemble kosmos-1 --vision openai/clip-vit-large-patch14 --language DIR --out kosmos-1-new

DIR holds a tokenizer. The variants are one of its corpora alone, "joint", of which each step reads all of them, and
"instruct" the language-only tuning that follows, from what an earlier run exported: --config.model=DIR. docs/kosmos.md
has rows and tokens, docs/plan.md time and memory.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.kosmos import CORPORA, corpus, instructed, joint

MODEL = "kosmos-1-new"
VARIANTS = (*CORPORA, "joint", "instruct")


def get_config(variant: str = "interleaved") -> ConfigDict:
    """A run on one corpus, or the tuning on instructions."""
    if variant not in VARIANTS:
        raise ValueError(f"kosmos1 has no variant {variant!r}; it has {', '.join(VARIANTS)}")
    if variant == "joint":
        return joint(MODEL)
    return instructed(MODEL) if variant == "instruct" else corpus(MODEL, variant)
