"""A model tuned on ScienceQA with lectures and explanations as chains of thought; the variant is the answer format.

    instructblip train --config configs/scienceqa.py:lea --workdir runs/scienceqa_lea
    instructblip evaluate --config configs/scienceqa.py:lea --workdir runs/scienceqa_lea

--config.model selects another model, and --config.trainable its trainable set (default: the first of its system).
docs/scienceqa.md has the answer formats, the scoring rule, and the published results.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import finetune

RECORDS = 12_726
"""Number of training problems with and without images."""
EPOCHS = 12
"""LLaVA's (arXiv 2304.08485, section 5.2)."""
RESPONSES: dict[str, tuple[int, ...]] = {"a": (16,), "ale": (128, 256, 1024), "lea": (128, 256, 1024)}
"""Variant -> static response lengths in tokens; the largest is also the limit in evaluation."""


def get_config(variant: str = "lea") -> ConfigDict:
    """The run that gives the answer only ("a"), with reasons after the answer ("ale"), or before it ("lea")."""
    if variant not in RESPONSES:
        raise ValueError(f"configs/scienceqa.py has no variant {variant!r}; it has {', '.join(RESPONSES)}")
    model, training = "Salesforce/instructblip-vicuna-7b", f"scienceqa_qcm_{variant}:train"
    config = finetune(model, training, RECORDS, epochs=EPOCHS, batch_size=64)
    config.trainable = ""
    config.data.instruction_lengths = (64, 128, 512)  # a hint may be a page
    config.data.response_lengths = RESPONSES[variant]
    config.evaluation.batch_size = 16  # a KV cache of a thousand tokens per row
    return config
