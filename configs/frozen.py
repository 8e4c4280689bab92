"""Frozen as its paper trained it (arXiv 2106.13884), through LLaMA-7B.

It begins from a directory of a language model, a new NF-ResNet-50 and a new linear map, made by

    instructblip assemble frozen --language huggyllama/llama-7b --out frozen-7b-new
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.frozen import paper


def get_config() -> ConfigDict:
    """The paper's run; docs/frozen.md says where it differs."""
    return paper("frozen-7b-new")
