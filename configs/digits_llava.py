"""LLaVA over the digits world: its own small CLIP tower, the LLaMA of configs/digits.py:llama, the same data and steps.

The first variant is stage 1 of the papers (arXiv 2304.08485, 2310.03744), the projector alone, but with questions in
conversations (template v1) as well as captions; ``projector_and_llm`` trains what their stage 2 trains.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

BASE = runpy.run_path(str(Path(__file__).with_name("digits.py")))["get_config"]

VARIANTS = {
    "": {},
    # A lower rate, because the language model knows its tasks already.
    "projector_and_llm": {"trainable": "projector_and_llm", "optim.learning_rate": 2e-4},
}


def get_config(variant: str = "") -> ConfigDict:
    """The run, or one of its `VARIANTS`."""
    if variant not in VARIANTS:
        known = ", ".join(filter(None, VARIANTS))
        raise ValueError(f"configs/digits_llava.py has no variant {variant!r}; it has {known}")
    config = BASE(model="digits-llava")
    config.optim.learning_rate = 2e-3  # as LLaVA 1.0's projector (arXiv 2304.08485)
    config.data.instruction_lengths = (56,)  # the system message and the turn's words included
    with config.unlocked():
        config.update_from_flattened_dict(VARIANTS[variant])
    return config
