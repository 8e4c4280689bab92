"""KOSMOS-1 (arXiv 2302.14045) in the digits world: a decoder trained from scratch, and a frozen tower.

A step has a batch of each of the paper's three corpora: texts and documents with new names, which are repeated, and
images with captions. Each is weighted by about its share of the tokens, as in configs/kosmos1.py. Evaluation asks for
names that only the prompt defines; docs/digits.md has the results.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

NAMED = runpy.run_path(str(Path(__file__).with_name("digits_frozen.py")))["named"]

GROUPS = {
    "texts": {
        "sets": ("naming_texts",),
        "batch_size": 48,
        "weight": 0.86,
        "response_lengths": (24,),
        "pictures": (0,),
    },
    "pairs": {"sets": ("single",), "batch_size": 16, "weight": 0.06, "response_lengths": (4,), "pictures": (1,)},
    "documents": {
        "sets": ("naming_documents",),
        "batch_size": 8,
        "weight": 0.08,
        "response_lengths": (24,),
        "pictures": (10,),
    },
}


def get_config() -> ConfigDict:
    """The run."""
    config = NAMED("digits-kosmos")
    config.trainable = "all_but_vision"
    config.mixture.sets, config.mixture.groups = (), GROUPS
    config.batch_size = sum(group["batch_size"] for group in GROUPS.values())
    config.data.instruction_lengths = (8,)
    config.steps, config.optim.learning_rate = 800, 2e-3
    return config
