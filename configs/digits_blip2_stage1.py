"""BLIP-2's first stage (arXiv 2301.12597, section 3.1) in the digits world: the Q-Former learns from captions only.

`launch/chain.sh` runs this file, configs/digits_blip2_stage2.py and configs/digits.py one after the other.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

DIGITS = runpy.run_path(str(Path(__file__).with_name("digits.py")))

CAPTIONS = ("caption", "describe")


def captioned(model: str) -> ConfigDict:
    """A run on captions with an embedded ``model`` that compares images with texts; other files pass other models."""
    config = DIGITS["get_config"](model=model)
    # More rows than for instruction tuning, because the other rows of a batch are the negatives.
    config.steps, config.batch_size = 300, 16
    config.optim.learning_rate, config.optim.warmup_steps = 1e-3, 50
    config.validate_every = 150
    config.mixture.sets = CAPTIONS
    config.mixture.weights = {}
    config.data.instruction_lengths = config.data.response_lengths = (25,)  # the single text can be either
    config.data.window = 1  # long and short captions in a batch, as in a gallery
    config.evaluation.held_in, config.evaluation.held_out = CAPTIONS, ()
    config.evaluation.settings = {name: {"mode": "retrieval", "rerank": 20} for name in CAPTIONS}
    config.evaluation.blind = False
    return config


def get_config() -> ConfigDict:
    """The run."""
    return captioned("digits-stage1")
