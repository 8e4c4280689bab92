"""BLIP-2's second stage (arXiv 2301.12597, section 3.2) in the digits world: the T5 writes captions after the queries.

The model is what `assemble blip-2` makes of stage 1 and the T5; `launch/chain.sh` puts it where this file looks.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

DIGITS = runpy.run_path(str(Path(__file__).with_name("digits.py")))

CAPTIONS = ("caption", "describe")


def get_config() -> ConfigDict:
    """The run."""
    config = DIGITS["get_config"]()
    config.model = "runs/chain/stage2_start"
    config.steps = 600
    config.optim.warmup_steps = 50
    config.validate_every = 300
    config.mixture.sets = CAPTIONS
    config.mixture.weights = {}
    config.evaluation.held_in, config.evaluation.held_out = CAPTIONS, ()
    return config
