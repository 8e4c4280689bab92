"""Frozen (arXiv 2106.13884) in the digits world: a trained tower before a frozen LLaMA that learns from its context.

The first variant also trains on prompts with examples; ``captions`` learns from captions only, as in the paper.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

DIGITS = runpy.run_path(str(Path(__file__).with_name("digits.py")))

CAPTIONS, NAMING = ("single",), ("naming_digits", "naming_colours")
VARIANTS = {"": {}, "captions": {"mixture.sets": CAPTIONS, "data.pictures": (1,)}}


def named(model: str) -> ConfigDict:
    """A run on captions of single digits and on prompts with examples; other files pass other models."""
    config = DIGITS["get_config"](model=model)
    config.steps, config.batch_size = 500, 8
    config.optim.learning_rate, config.optim.warmup_steps = 3e-4, 50
    config.validate_every = 250
    config.mixture.sets = (*CAPTIONS, *NAMING)
    config.mixture.weights = {}
    config.data.pictures = (1, 5)
    config.data.instruction_lengths, config.data.response_lengths = (8,), (4,)
    config.evaluation.held_in, config.evaluation.held_out = (), NAMING
    config.evaluation.max_new_tokens = 4
    config.evaluation.shots, config.evaluation.few_shot.controls = (0, 1, 2, 4, 8), ("wrong", "blank")
    return config


def get_config(variant: str = "") -> ConfigDict:
    """The run, or one of its `VARIANTS`."""
    if variant not in VARIANTS:
        known = ", ".join(filter(None, VARIANTS))
        raise ValueError(f"configs/digits_frozen.py has no variant {variant!r}; it has {known}")
    config = named("digits-frozen")
    with config.unlocked():
        config.update_from_flattened_dict(VARIANTS[variant])
    return config
