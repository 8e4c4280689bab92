"""KOSMOS-1 as its paper trained it (arXiv 2302.14045): 300,000 steps over texts, image-text pairs and pages with
images.

It starts from CLIP's tower, a new connector and a new decoder, made by

    instructblip assemble kosmos-1 --vision openai/clip-vit-large-patch14 --language DIR --out kosmos-1-new

DIR contains a tokenizer. The variant "instruct" is the subsequent language-only tuning, which starts from the run's
export (--config.model=DIR); "text", "pairs" and "interleaved" use one corpus only. docs/kosmos.md has rows and tokens,
docs/plan.md time and memory.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.kosmos import CORPORA, corpus, instructed, paper

MODEL = "kosmos-1-new"
VARIANTS = ("instruct", *CORPORA)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's run, the tuning on instructions, or a run on one corpus."""
    if variant == "":
        return paper(MODEL)
    if variant not in VARIANTS:
        raise ValueError(f"kosmos1 has no variant {variant!r}; it has {', '.join(VARIANTS)}")
    return instructed(MODEL) if variant == "instruct" else corpus(MODEL, variant)
