"""BLIP-2's runs according to its paper (arXiv 2301.12597): pre-training in two stages, and fine-tuning for retrieval.

Both stages train on the same captions with random crops and flips. The authors' code lowers its cosine schedule once
per epoch, ours at every step, as in the paper.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from instructblip_jax.run.config import complete

SETS = ("coco_pretrain", "vg_caption", "cc3m", "cc12m", "sbu", "laion")
"""Section 3.3: 129 million images, those from the web with captions from CapFilt."""
LONGEST = 32
"""Number of caption tokens in both stages."""
RETRIEVAL_TEXTS = 566_747
"""Number of captions in COCO's training split for retrieval."""


def _begin(model: str, steps: int, batch_size: int) -> ConfigDict:
    config = complete(ConfigDict({"model": model, "steps": steps, "batch_size": batch_size}))
    config.layout = {"trained": "zero", "vit": "replicated"}
    config.remat = "layer"
    config.mixture.sets, config.mixture.exponent = SETS, 1.0
    config.data.response_lengths = (LONGEST,)
    config.data.augment.crop, config.data.augment.flip = 0.5, True
    config.evaluation.blind = False
    optim = config.optim
    optim.learning_rate, optim.warmup_steps, optim.warmup_start = 1e-4, 2000, 1e-6
    optim.weight_decay, optim.beta2 = 0.05, 0.98
    return config


def _changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    with config.unlocked():
        config.update_from_flattened_dict(dict(changes))
    return config


def first_stage(model: str, changes: Mapping[str, Any]) -> ConfigDict:
    """Section 3.3: 250,000 steps of 1,680 images (ViT-g), learning rate 1e-4. The final rate, 1e-5, is from the
    released code."""
    config = _begin(model, 250_000, 1680)
    config.trainable = "qformer"
    config.optim.final_learning_rate = 1e-5
    config.data.templates, config.data.instruction_lengths = "captions", (LONGEST,)
    config.checkpoint_every = 5000
    return _changed(config, changes)


def retrieval(model: str, changes: Mapping[str, Any]) -> ConfigDict:
    """Appendix, table 11: five epochs on COCO at 364 pixels, batch 224, with a trained tower. Learning rates of
    ViT-g."""
    epoch = -(-RETRIEVAL_TEXTS // 224)
    config = _begin(model, 5 * epoch, 224)
    config.trainable, config.image_size = "vision", 364
    config.layout = {"trained": "zero", "vit": "zero"}
    config.optim.learning_rate, config.optim.warmup_steps, config.optim.warmup_start = 1e-5, 1000, 1e-8
    config.optim.beta2 = 0.999
    config.mixture.sets = ("coco_retrieval",)
    config.data.templates, config.data.instruction_lengths = "captions", (LONGEST,)
    config.system = {"identify_pictures": True}
    config.evaluation.held_in, config.evaluation.held_out = ("coco_retrieval",), ("flickr30k_retrieval",)
    config.evaluation.settings = {"coco_retrieval": {"rerank": 128}}
    config.checkpoint_every = epoch
    return _changed(config, changes)


def second_stage(model: str, batch_size: int, *, continued: bool, changes: Mapping[str, Any]) -> ConfigDict:
    """Section 3.3: 80,000 steps of 1,920 images (OPT) or 1,520 (FlanT5), from 1e-4 to 5e-5.

    ``continued``: captions are split in two, the first part for the encoder (T5); otherwise they are generated whole.
    """
    config = _begin(model, 80_000, batch_size)
    config.trainable = "original"
    config.layout.llm = "replicated"
    config.optim.final_learning_rate = 5e-5
    config.data.templates = "continued_captions" if continued else "captions"
    config.data.instruction_lengths = (LONGEST,) if continued else (8,)
    config.evaluation.held_in, config.evaluation.held_out = (), ("nocaps", "gqa")
    config.checkpoint_every = 2000
    return _changed(config, changes)


def chosen(where: str, variants: Mapping[str, Any], variant: str) -> Any:
    """One of a configuration file's variants. Raises ValueError for an unknown one."""
    if variant not in variants:
        raise ValueError(f"{where} has no variant {variant!r}; it has {', '.join(filter(None, variants))}")
    return variants[variant]
