"""LLaVA in the digits world: a small CLIP tower, the LLaMA of configs/digits.py:llama, and the same data and steps.

The first variant is stage 1 of the papers (arXiv 2304.08485, 2310.03744), which trains only the projector, but here on
questions in conversations (template v1) as well as captions; ``projector_and_llm`` trains the same parts as their stage
2.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

BASE = runpy.run_path(str(Path(__file__).with_name("digits.py")))["get_config"]

VARIANTS = {
    "": {},
    # A lower rate, because the language model already knows its tasks.
    "projector_and_llm": {"trainable": "projector_and_llm", "optim.learning_rate": 2e-4},
}


def get_config(variant: str = "") -> ConfigDict:
    """The run, or one of its `VARIANTS`."""
    if variant not in VARIANTS:
        known = ", ".join(filter(None, VARIANTS))
        raise ValueError(f"configs/digits_llava.py has no variant {variant!r}; it has {known}")
    config = BASE(model="digits-llava")
    config.optim.learning_rate = 2e-3  # as LLaVA 1.0's projector (arXiv 2304.08485)
    config.data.instruction_lengths = (56,)  # including the system message and the words of the template
    with config.unlocked():
        config.update_from_flattened_dict(VARIANTS[variant])
    return config
