"""The paper's instruction tuning (arXiv 2305.06500, section 2 and appendix) as a configuration: what
`configs/instructblip_*.py` share."""

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
"""Those of them that have a split to be judged on."""
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


def paper(model: str, batch_size: int, variants: Mapping[str, Mapping[str, Any]], variant: str) -> ConfigDict:
    """The paper's run of ``model``, laid out as its ``variant`` says: {"v5e_4x4": {"int8": True, ...}, ...}.

    Raises ValueError for a variant that is not there.
    """
    if variant not in variants:
        raise ValueError(f"{model} has no variant {variant!r}; it has {', '.join(filter(None, variants))}")
    config = complete(ConfigDict({"model": model, "steps": 60_000, "batch_size": batch_size}))
    config.checkpoint_every = 3000  # as often as the paper validates
    config.trainable = "original"
    config.layout = {"trained": "replicated", "vit": "replicated", "llm": "replicated"}
    config.remat = "layer"
    # Drawn by the square root of their size, but A-OKVQA less and OKVQA more; by how much was not published.
    config.mixture.sets = HELD_IN
    config.mixture.weights = {"aokvqa": 0.5, "okvqa": 2.0}
    # 32 pairs of lengths pad 14 % of a mixture like this one; the nine of the default lengths pad 60 %.
    config.data.shapes, config.data.window = 32, 128
    config.evaluation.held_in, config.evaluation.held_out, config.evaluation.blind = JUDGED, HELD_OUT, False
    with config.unlocked():
        config.update_from_flattened_dict(variants[variant])
    return config


def finetune(model: str, training: str, records: int, *, epochs: int, batch_size: int) -> ConfigDict:
    """Fine-tuning of ``model`` on one set as in the paper's table 3, for `configs/finetune.py`: what is tuned in
    instruction tuning is tuned on, at 224 pixels, both towers frozen.

    Learning rate, batch and epochs were not published. Ours: the rate and schedule of instruction tuning, but warming
    up for a tenth of the steps at most, and a checkpoint an epoch, to choose among by a validation split.

    Args:
      training: the split that is trained on, NAME:SPLIT.
      records: how many it has.
    """
    config = paper(model, batch_size, {"": {}}, "")
    epoch = -(-records // batch_size)
    config.steps = epochs * epoch
    config.checkpoint_every = epoch
    config.checkpoints_kept = epochs
    config.optim.warmup_steps = min(1000, config.steps // 10)
    config.data.shapes, config.data.window = 8, 16  # one set's texts are alike: few programs hold them well
    config.mixture.sets, config.mixture.weights = (training,), {}
    config.evaluation.held_in, config.evaluation.held_out = (training.partition(":")[0],), ()
    return config


def own_data(model: str, sets: tuple[str, ...], batch_size: int = 16) -> ConfigDict:
    """Instruction tuning of ``model`` on prepared sets of your own, for `configs/own_data.py` and those like it.

    What differs from the paper's run: it goes on from a model that is tuned already, on few records, in few steps.
    """
    config = paper(model, batch_size, {"": {}}, "")
    config.steps = 1000
    config.checkpoint_every = 500
    config.trainable = "qformer"
    config.optim.warmup_steps = 100
    config.optim.clip_norm = 1.0
    config.data.shapes, config.data.window = 0, 4  # few records: rather padding than many programs to compile
    config.mixture.sets, config.mixture.weights = sets, {}
    config.evaluation.held_in, config.evaluation.held_out = sets, ()
    config.evaluation.batch_size, config.evaluation.blind = batch_size, True
    return config
