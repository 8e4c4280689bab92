"""Flamingo (arXiv 2204.14198) in the digits world: gated layers show a frozen LLaMA what a frozen tower sees.

The data are those of configs/digits_frozen.py, and so are the questions: new names, which only the prompt says.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

NAMED = runpy.run_path(str(Path(__file__).with_name("digits_frozen.py")))["named"]


def get_config() -> ConfigDict:
    """The run."""
    config = NAMED("digits-flamingo")
    # Closed gates must open within the run, by about the rate a step.
    config.steps, config.optim.learning_rate = 1000, 2e-3
    config.data.instruction_lengths = (16,)  # the tokens of pictures included
    return config
