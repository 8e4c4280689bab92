"""X-InstructBLIP (arXiv 2311.18799) in the digits world: each modality is trained separately, with its own Q-Former.

A variant is a modality: ``image`` has images of digits, ``audio`` voices, ``video`` films of strokes, ``pc`` points.
`assemble x-instructblip` combines the parts that four runs have trained; benchmarks/senses.py asks about two
modalities.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

DIGITS = runpy.run_path(str(Path(__file__).with_name("digits.py")))

SENSES = {"image": "seen", "audio": "heard", "video": "filmed", "pc": "felt"}
"""Variant -> the set of its modality."""
STEPS = {"image": 600, "audio": 300, "video": 300, "pc": 600}
"""Variant -> steps. Steps on sounds and films cost more, and fewer are needed."""


def get_config(variant: str = "image") -> ConfigDict:
    """The run of one modality."""
    if variant not in SENSES:
        raise ValueError(f"configs/digits_x.py has no variant {variant!r}; it has {', '.join(SENSES)}")
    config = DIGITS["get_config"](model="digits-x")
    config.trainable = f"qformer_{variant}"
    sets = (SENSES[variant], f"{SENSES[variant]}_facts")
    config.steps, config.batch_size = STEPS[variant], 32
    config.optim.learning_rate, config.optim.warmup_steps = 2e-3, 100
    config.validate_every = 300
    config.mixture.sets, config.mixture.weights = sets, {}
    config.data.instruction_lengths, config.data.response_lengths = (16,), (2,)
    config.evaluation.held_in, config.evaluation.held_out = sets, ()
    config.evaluation.max_new_tokens = 4
    return config
