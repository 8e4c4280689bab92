"""BLIP-2's second stage (arXiv 2301.12597, section 3.2) in the digits world: the T5 writes captions after the queries.

The model is what `assemble blip-2` makes of stage 1 and the T5; `launch/chain.sh` puts it where this file looks.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

CAPTIONED = runpy.run_path(str(Path(__file__).with_name("digits_blip2_stage1.py")))
DIGITS = runpy.run_path(str(Path(__file__).with_name("digits.py")))["get_config"]


def get_config() -> ConfigDict:
    """The run."""
    config = DIGITS()
    config.model = "runs/chain/stage2.start"
    config.steps, config.validate_every = 300, 150
    config.optim.warmup_steps = 50
    config.mixture.sets = CAPTIONED["CAPTIONS"]
    config.mixture.weights = {}
    config.evaluation.held_in, config.evaluation.held_out = CAPTIONED["CAPTIONS"], ()
    return config
