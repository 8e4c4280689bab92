"""BLIP-2's second stage (arXiv 2301.12597, section 3.2) in the digits world: the T5 writes captions after the queries.

Run on its own, it starts with an untrained Q-Former; `launch/chain.sh` passes it the Q-Former of stage 1.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

CAPTIONED = runpy.run_path(str(Path(__file__).with_name("digits_blip2_stage1.py")))
DIGITS = runpy.run_path(str(Path(__file__).with_name("digits.py")))["get_config"]


def get_config() -> ConfigDict:
    """The run."""
    config = DIGITS(model="digits-stage2")
    config.steps, config.validate_every = 300, 150
    config.optim.warmup_steps = 50
    config.mixture.sets = CAPTIONED["CAPTIONS"]
    config.mixture.weights = {}
    config.evaluation.held_in, config.evaluation.held_out = CAPTIONED["CAPTIONS"], ()
    return config
