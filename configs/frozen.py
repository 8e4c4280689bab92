"""Frozen as its paper trained it (arXiv 2106.13884), through LLaMA-7B.

It starts from a language model, a new NF-ResNet-50 and a new linear map, in a directory made by

    instructblip assemble frozen --language huggyllama/llama-7b --out frozen-7b-new
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.frozen import paper


def get_config() -> ConfigDict:
    """The paper's run; docs/frozen.md lists the differences."""
    return paper("frozen-7b-new")
