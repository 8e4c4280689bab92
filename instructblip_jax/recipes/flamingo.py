"""Flamingo's run according to its paper (arXiv 2204.14198), with public language models, for `configs/`.

The paper's parts, NFNet-F6 and Chinchilla, are not public. CLIP ViT-L/14 and LLaMA or OPT replace them, as in
OpenFlamingo (arXiv 2308.01390), which reaches 80 to 89 % of the paper's scores with such parts (its abstract).
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from instructblip_jax.recipes import documents
from instructblip_jax.recipes.blip2 import chosen
from instructblip_jax.run.config import complete

STEPS, WARM_UP = 500_000, 5_000
RATE = 1e-4
"""Reached by a linear rise, then constant (appendix)."""
WINDOW, PICTURES, FRAMES = 256, 5, 8
"""Number of tokens and images read from a page, and of video frames at one per second (section 2.4 and appendix)."""
CAPTION = 32
"""Number of caption tokens; ALT text has 12.4 on average, the longer LTIP 20.5 (section 2.4)."""


PAGES = "mmc4"
"""Instead of M3W, the paper's own web pages."""
PAIRS = {"sets": ("laion",), "weight": 0.2, "response_lengths": (CAPTION,), "pictures": (1,)}
"""Instead of ALIGN and LTIP, with the weight of each (appendix). There is no public dataset instead of VTP, its
videos."""


def paper(model: str, variants: Mapping[str, Mapping[str, Any]], variant: str, pages: int, pairs: int) -> ConfigDict:
    """The run from ``model``, changed by one of the ``variants``, with ``pages`` rows of pages and ``pairs`` rows of
    pairs per step, which the paper does not state. 0 pairs means pages only.

    Raises ValueError for an unknown variant.
    """
    config = complete(ConfigDict({"model": model, "steps": STEPS, "batch_size": pages + pairs}))
    config.trainable = "resampler_and_xattn"
    config.system.update({"next_picture": 0.5})
    optim = config.optim
    optim.learning_rate, optim.final_learning_rate = RATE, RATE
    optim.warmup_start, optim.warmup_steps = 0.0, WARM_UP
    optim.weight_decay, optim.clip_norm = 0.1, 1.0
    optim.undecayed = ("bridge/resampler", "added")
    config.layout = {"trained": "zero", "vit": "replicated", "llm": "replicated"}
    config.remat = "layer"
    if pairs:
        groups = {"pages": {"sets": (PAGES,), "batch_size": pages}, "pairs": PAIRS | {"batch_size": pairs}}
        config.mixture.groups = ConfigDict(groups)
    else:
        config.mixture.sets = (PAGES,)
    config.data.templates = "captions"
    config.data.documents.update(documents.FLAMINGO)
    config.data.pictures = (1, PICTURES)
    config.data.instruction_lengths, config.data.response_lengths = (8,), (CAPTION, WINDOW)
    config.data.augment.flip = True
    config.evaluation.blind = False
    with config.unlocked():
        config.update_from_flattened_dict(dict(chosen("flamingo", variants, variant)))
    return config
