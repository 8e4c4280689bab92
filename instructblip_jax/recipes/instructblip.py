"""InstructBLIP's runs according to its paper (arXiv 2305.06500): instruction tuning and fine-tuning, as configurations
for `configs/`, and its zero-shot results."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from instructblip_jax.run.config import complete

HELD_IN = (
    "coco_caption",
    "capfilt",
    "textcaps",
    "vqav2",
    "okvqa",
    "aokvqa",
    "ocrvqa",
    "vqav2_qg",
    "okvqa_qg",
    "aokvqa_qg",
    "llava_detail",
    "llava_conv",
    "llava_reason",
)
JUDGED = ("coco_caption", "textcaps", "vqav2", "okvqa", "aokvqa", "ocrvqa")
"""The held-in sets with an evaluation split."""
HELD_OUT = (
    "nocaps",
    "flickr30k",
    "gqa",
    "vsr",
    "iconqa",
    "textvqa",
    "visdial",
    "hateful_memes",
    "vizwiz",
    "scienceqa",
    "msvd_qa",
    "msrvtt_qa",
    "ivqa",
)

PAPER: dict[str, dict[str, float]] = {
    model: dict(zip(HELD_OUT, numbers, strict=True))
    for model, numbers in {
        "instructblip-flan-t5-xl": (119.9, 84.5, 48.4, 64.8, 50.0, 46.6, 46.6, 56.6, 32.7, 70.4, 43.4, 25.0, 53.1),
        "instructblip-flan-t5-xxl": (120.0, 83.5, 47.9, 65.6, 51.2, 46.6, 48.5, 54.1, 30.9, 70.6, 44.3, 25.6, 53.8),
        "instructblip-vicuna-7b": (123.1, 82.4, 49.2, 54.3, 43.1, 50.1, 45.2, 59.6, 34.5, 60.5, 41.8, 22.1, 52.2),
        "instructblip-vicuna-13b": (121.9, 82.8, 49.5, 52.1, 44.8, 50.7, 45.4, 57.5, 33.4, 63.1, 41.2, 24.8, 51.0),
        "blip2-flan-t5-xl": (104.5, 76.1, 44.0, 60.5, 45.5, 43.1, 45.7, 53.0, 29.8, 54.9, 33.7, 16.2, 40.4),
        "blip2-flan-t5-xxl": (98.4, 73.7, 44.6, 68.2, 45.4, 44.1, 46.9, 52.0, 29.4, 64.5, 34.4, 17.4, 45.8),
    }.items()
}
"""Model -> set -> the paper's number, table 1, times 100 (VizWiz on its server's test-dev, here on val)."""


def paper(model: str, batch_size: int, variants: Mapping[str, Mapping[str, Any]], variant: str) -> ConfigDict:
    """The paper's run of ``model``, changed by one of its ``variants``: {"v5e_4x4": {"int8": True, ...}, ...}.

    Raises ValueError for an unknown variant.
    """
    if variant not in variants:
        raise ValueError(f"{model} has no variant {variant!r}; it has {', '.join(filter(None, variants))}")
    config = complete(ConfigDict({"model": model, "steps": 60_000, "batch_size": batch_size}))
    config.checkpoint_every = 3000  # the paper's interval between validations
    config.trainable = "original"
    config.layout = {"trained": "zero", "vit": "replicated", "llm": "replicated"}
    config.remat = "layer"
    # In proportion to the square root of their size, but A-OKVQA less and OKVQA more, by unpublished factors.
    config.mixture.sets = HELD_IN
    config.mixture.weights = {"aokvqa": 0.5, "okvqa": 2.0}
    # On a mixture like this one, 14 % of the tokens are padding with 32 pairs of lengths, 60 % with the nine default
    # pairs.
    config.data.shapes, config.data.window = 32, 128
    config.evaluation.held_in, config.evaluation.held_out, config.evaluation.blind = JUDGED, HELD_OUT, False
    with config.unlocked():
        config.update_from_flattened_dict(variants[variant])
    return config


def finetune(model: str, training: str, records: int, *, epochs: int, batch_size: int) -> ConfigDict:
    """Fine-tuning of ``model`` on one set as in the paper's table 3, for `configs/finetune.py`.

    The parameters trained in instruction tuning are trained further, at 224 pixels, with vision tower and language
    model frozen. Learning rate, batch and epochs were not published; ours are the rate and schedule of instruction
    tuning, with a warm-up of at most a tenth of the steps, and a checkpoint per epoch to be selected on a validation
    split.

    Args:
      training: the training split, NAME:SPLIT.
      records: its number of records.
    """
    config = paper(model, batch_size, {"": {}}, "")
    epoch = -(-records // batch_size)
    config.steps = epochs * epoch
    config.checkpoint_every = epoch
    config.checkpoints_kept = epochs
    config.optim.warmup_steps = min(1000, config.steps // 10)
    config.data.shapes, config.data.window = 8, 16  # the texts of one set are alike: a few programs fit them well
    config.mixture.sets, config.mixture.weights = (training,), {}
    config.evaluation.held_in, config.evaluation.held_out = (training.partition(":")[0],), ()
    return config


def own_data(model: str, sets: tuple[str, ...], batch_size: int = 16) -> ConfigDict:
    """Instruction tuning of ``model`` on prepared sets of your own, for `configs/own_data.py` and copies of it.

    Unlike the paper's run, it continues from a tuned model, with few records and steps.
    """
    config = paper(model, batch_size, {"": {}}, "")
    config.steps = 1000
    config.checkpoint_every = 500
    config.trainable = "qformer"
    config.optim.warmup_steps = 100
    config.optim.clip_norm = 1.0
    config.data.shapes, config.data.window = 0, 4  # few records: padding costs less than compiling many programs
    config.mixture.sets, config.mixture.weights = sets, {}
    config.evaluation.held_in, config.evaluation.held_out = sets, ()
    config.evaluation.batch_size, config.evaluation.blind = batch_size, True
    return config
