"""BLIP's pre-training (arXiv 2201.12086) in the digits world: contrast, matching and caption generation."""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

PRETRAINING = runpy.run_path(str(Path(__file__).with_name("digits_albef.py")))["pretraining"]


def get_config() -> ConfigDict:
    """The run."""
    return PRETRAINING("digits-blip")
