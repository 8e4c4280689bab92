"""InstructBLIP fine-tuned on one dataset, as in the paper's table 3 (arXiv 2305.06500); the variant is the dataset.

    instructblip train --config configs/finetune.py:scienceqa --workdir runs/scienceqa
    instructblip evaluate --config configs/finetune.py:scienceqa --workdir runs/scienceqa

The table has Vicuna-7B, as here, and FlanT5-XXL: --config.model=Salesforce/instructblip-flan-t5-xxl. docs/finetuning.md
lists the published results, and explains larger images and training the tower.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import finetune

SETS: dict[str, dict] = {
    "scienceqa": {"training": "scienceqa:train_img", "records": 6_218, "epochs": 5, "batch_size": 64},
    "ocrvqa": {"training": "ocrvqa:train", "records": 800_000, "epochs": 3, "batch_size": 128},
    "okvqa": {"training": "okvqa:train", "records": 9_009, "epochs": 5, "batch_size": 64},
    "aokvqa": {"training": "aokvqa:train", "records": 17_056, "epochs": 5, "batch_size": 64},
}
"""Variant -> the training split and its size; the epochs and the batch size are our choice."""


def get_config(variant: str = "scienceqa") -> ConfigDict:
    """The run on one of `SETS`."""
    if variant not in SETS:
        raise ValueError(f"configs/finetune.py has no variant {variant!r}; it has {', '.join(SETS)}")
    config = finetune("Salesforce/instructblip-vicuna-7b", **SETS[variant])
    config.int8 = True  # as in configs/instructblip_vicuna7b.py: the frozen language model fits on every chip
    return config
