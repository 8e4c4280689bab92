"""ALBEF's pre-training (arXiv 2107.07651) in the digits world: contrast, matching and masked words, from captions."""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

CAPTIONED = runpy.run_path(str(Path(__file__).with_name("digits_blip2_stage1.py")))["captioned"]


def pretraining(model: str) -> ConfigDict:
    """The run with an embedded ``model`` that has momentum copies and queues."""
    config = CAPTIONED(model)
    config.steps = 800
    config.optim.learning_rate = 6e-4  # lower, because the tower is trained too
    # Queues of 64 batches; the teacher's weight rises while it begins to follow the student.
    config.system.queue_size, config.system.ramp_steps = 1024, 200
    return config


def get_config() -> ConfigDict:
    """The run."""
    return pretraining("digits-albef")
