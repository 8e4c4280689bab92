"""A model tuned on ScienceQA with lectures and explanations as chains of thought: a variant is a form of the answer.

    instructblip train --config configs/scienceqa.py:lea --workdir runs/scienceqa_lea
    instructblip evaluate --config configs/scienceqa.py:lea --workdir runs/scienceqa_lea

--config.model names another model; what trains is the first of its system's sets unless --config.trainable names one.
docs/scienceqa.md has the forms, the rule of scoring, and what was published.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import finetune

RECORDS = 12_726
"""Training problems with and without a picture."""
EPOCHS = 12
"""LLaVA's (arXiv 2304.08485, section 5.2)."""
RESPONSES: dict[str, tuple[int, ...]] = {"a": (16,), "ale": (128, 256, 1024), "lea": (128, 256, 1024)}
"""Variant -> lengths of the responses in tokens; the largest is how much is written in evaluation."""


def get_config(variant: str = "lea") -> ConfigDict:
    """The run that answers at once ("a"), with reasons after the answer ("ale"), or before it ("lea")."""
    if variant not in RESPONSES:
        raise ValueError(f"configs/scienceqa.py has no variant {variant!r}; it has {', '.join(RESPONSES)}")
    model, training = "Salesforce/instructblip-vicuna-7b", f"scienceqa_qcm_{variant}:train"
    config = finetune(model, training, RECORDS, epochs=EPOCHS, batch_size=64)
    config.trainable = ""
    config.data.instruction_lengths = (64, 128, 512)  # a hint may be a page
    config.data.response_lengths = RESPONSES[variant]
    config.evaluation.batch_size = 16  # a KV cache of a thousand tokens a row
    return config
