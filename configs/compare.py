"""Nine systems in the digits world, with the same scenes, frozen parts and number of training samples.

`instructblip compare --config configs/compare.py --workdir W` trains and evaluates all variants in `SYSTEMS`.
docs/compare.md lists what is equal among them and what is not.
"""

import runpy
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

CONFIGS = Path(__file__).parent
INSTRUCTED = runpy.run_path(str(CONFIGS / "digits.py"))["get_config"]
CAPTIONED = runpy.run_path(str(CONFIGS / "digits_blip2_stage1.py"))["captioned"]
PRETRAINED = runpy.run_path(str(CONFIGS / "digits_albef.py"))["pretraining"]
NAMED = runpy.run_path(str(CONFIGS / "digits_frozen.py"))["named"]

SAMPLES = 12_000
"""Training samples per run; half as many if a prompt shows up to five images."""
INTERLEAVED = {"data.pictures": (1,)}

SYSTEMS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    # Questions about scenes. Bridges: a Q-Former with and without the instruction, maps of patches, a resampler with
    # gated cross-attention, a prefix from a trained tower, attention pooling before a trained decoder.
    "instructblip": (INSTRUCTED, "digits-llama", {}),
    "blip2_stage2": (INSTRUCTED, "digits-blip2-llama", {}),
    "llava_mlp": (INSTRUCTED, "digits-llava", {"optim.learning_rate": 2e-3, "data.instruction_lengths": (56,)}),
    "llava_linear": (
        INSTRUCTED,
        "digits-llava-linear",
        {"optim.learning_rate": 2e-3, "data.instruction_lengths": (56,)},
    ),
    "flamingo": (INSTRUCTED, "digits-flamingo-scenes", {"optim.learning_rate": 2e-3, **INTERLEAVED}),
    "frozen": (INSTRUCTED, "digits-frozen-scenes", {"optim.learning_rate": 3e-4, **INTERLEAVED}),
    "kosmos": (
        INSTRUCTED,
        "digits-kosmos-scenes",
        {"optim.learning_rate": 2e-3, "trainable": "all_but_vision", **INTERLEAVED},
    ),
    "x_instructblip": (INSTRUCTED, "digits-x-scenes", {"trainable": "qformer_image"}),
    # Captions of the same scenes, for retrieval of images by texts and of texts by images.
    "blip2_stage1": (CAPTIONED, "digits-stage1", {}),
    "blip": (PRETRAINED, "digits-blip", {}),
    "albef": (PRETRAINED, "digits-albef", {}),
    # New names, learned from examples in the prompt.
    "flamingo_names": (NAMED, "digits-flamingo", {"optim.learning_rate": 2e-3, "data.instruction_lengths": (16,)}),
    "frozen_names": (NAMED, "digits-frozen", {}),
    "kosmos_names": (
        NAMED,
        "digits-kosmos",
        {"optim.learning_rate": 2e-3, "trainable": "all_but_vision", "data.instruction_lengths": (24,)},
    ),
}
"""Variant -> its base run, its embedded model, and the fields that differ."""


def get_config(variant: str = "instructblip") -> ConfigDict:
    """The run of one of `SYSTEMS`."""
    if variant not in SYSTEMS:
        raise ValueError(f"configs/compare.py has no variant {variant!r}; it has {', '.join(SYSTEMS)}")
    begun, model, changes = SYSTEMS[variant]
    config = begun(model=model)
    config.steps = (SAMPLES // 2 if begun is NAMED else SAMPLES) // config.batch_size
    config.optim.warmup_steps = config.steps // 10
    config.validate_every, config.checkpoint_every = 0, 500
    config.evaluation.blind = False
    if begun is NAMED:
        config.evaluation.shots, config.evaluation.few_shot.controls = (0, 2, 4), ()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config
