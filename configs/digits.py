"""The embedded demo: scenes of real handwritten digits and shipped towers; it trains in minutes on a laptop.

`configs/digits.py:VARIANT` is one of the paper's ablations (arXiv 2305.06500, table 2 and figure 4), or ``llama``.
"""

from ml_collections import ConfigDict

from instructblip_jax import embedded
from instructblip_jax.run.config import complete

HELD_IN = (
    "caption",
    "describe",
    "digit_at",
    "colour_at",
    "where",
    "count",
    "presence",
    "read_row",
    "choice",
    "compare",
    "ask",
    "colour_of",
)
HELD_OUT = ("digit_of", "read_column", "extreme", "extreme_colour", "next_to")

VARIANTS = {
    "": {},
    # Table 2: the Q-Former does not see the instruction; only the language model does.
    "no_instruction_in_qformer": {"system.instruct_qformer": False},
    # Table 2: all sets equally often, regardless of their sizes.
    "uniform_sampling": {"mixture.exponent": 0.0, "mixture.weights.caption": 1.0, "mixture.weights.describe": 1.0},
    # Figure 4: trained on inputs without instructions, which are added only for evaluation.
    "multitask": {"data.templates": "plain"},
    # The language model's guesses: trained on blank images.
    "blind": {"data.blank_image": True},
}
MODELS = {"llama": "digits-llama"}
"""Variants that are not ablations -> the embedded model that they tune: another language model after the same vision
tower and Q-Former."""


def get_config(variant: str = "", model: str = "digits") -> ConfigDict:
    """The run, or one of its `VARIANTS` or `MODELS`; other files run it with another embedded ``model``."""
    if variant not in {*VARIANTS, *MODELS}:
        known = ", ".join([*filter(None, VARIANTS), *MODELS])
        raise ValueError(f"configs/digits.py has no variant {variant!r}; it has {known}")
    directory = embedded.model(MODELS.get(variant, model))
    config = complete(ConfigDict({"model": str(directory), "steps": 4800}))
    # Many small steps: the difficulty is to learn which query reads which cell, not noise in the gradients.
    config.batch_size = 8
    config.log_every = 25
    config.validate_every = 2400  # a pass over all twelve sets takes as long as 100 steps
    config.dtype = "float32"
    # A higher rate than the paper's 1e-5, because this Q-Former is small and trained from scratch.
    config.optim.learning_rate, config.optim.final_learning_rate = 6e-4, 1e-5
    config.optim.warmup_start, config.optim.warmup_steps = 1e-6, 500
    config.optim.beta2 = 0.99
    config.optim.clip_norm = 1.0
    # Captions weigh more: they name every cell, and replace BLIP-2's pre-training, from which the paper starts.
    config.mixture.sets = HELD_IN
    config.mixture.weights = {"caption": 5.0, "describe": 2.0}
    config.data.instruction_lengths, config.data.response_lengths = (24,), (4, 16)
    config.evaluation.held_in, config.evaluation.held_out = HELD_IN, HELD_OUT
    config.evaluation.batch_size, config.evaluation.max_new_tokens = 100, 16
    with config.unlocked():
        config.update_from_flattened_dict(VARIANTS.get(variant, {}))
    return config
