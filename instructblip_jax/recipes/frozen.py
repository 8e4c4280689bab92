"""Frozen's run according to its paper (arXiv 2106.13884), as a configuration for `configs/`.

A tower and a linear map are trained to caption Conceptual Captions through a language model of 7 billion parameters,
which is not public; LLaMA replaces it. Adam, a constant learning rate of 3e-4 and 128 captions per step until the
validation loss rises, which is after about one pass.
"""

from ml_collections import ConfigDict

from instructblip_jax.run.config import complete

RECORDS = 3_318_333
"""Number of captions in Conceptual Captions' training split."""
BATCH = 128


def paper(model: str) -> ConfigDict:
    """One pass over the captions from ``model``, a directory made by `assemble frozen`."""
    config = complete(ConfigDict({"model": model, "steps": RECORDS // BATCH, "batch_size": BATCH}))
    optim = config.optim
    optim.learning_rate = optim.final_learning_rate = 3e-4
    optim.warmup_steps, optim.weight_decay, optim.beta2 = 0, 0.0, 0.95
    config.remat = "layer"
    config.layout = {"vision": "replicated", "llm": "replicated"}
    config.mixture.sets, config.mixture.exponent = ("cc3m",), 1.0
    config.data.templates = "captions"
    config.data.instruction_lengths, config.data.response_lengths = (4,), (16, 32, 64)
    config.evaluation.held_out = ("vqav2", "okvqa")
    config.evaluation.settings = {
        name: {"prompt": "Question: {question} Answer:", "num_beams": 1, "repetition_penalty": 1.0}
        for name in config.evaluation.held_out
    }
    return config
