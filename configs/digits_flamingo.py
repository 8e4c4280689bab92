"""Flamingo (arXiv 2204.14198) in the digits world: gated layers connect a frozen LLaMA to a frozen tower.

The data and the questions are those of configs/digits_frozen.py: new names, which only the prompt defines.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

NAMED = runpy.run_path(str(Path(__file__).with_name("digits_frozen.py")))["named"]


def get_config() -> ConfigDict:
    """The run."""
    config = NAMED("digits-flamingo")
    # Closed gates must open within the run; a step changes them by about the learning rate.
    config.steps, config.optim.learning_rate = 1000, 2e-3
    config.data.instruction_lengths = (16,)  # including image tokens
    return config
