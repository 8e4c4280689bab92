"""LLaVA's runs according to its papers, 1.0 (arXiv 2304.08485) and 1.5 (arXiv 2310.03744), for `configs/`.

Stage 1 trains the projector on captions; stage 2 trains projector and language model, or adapters of the language model
(LoRA), on conversations. The tower is always frozen.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from instructblip_jax.run.config import complete

SHORT = "{question}\nAnswer the question using a single word or phrase."
"""The prompt with which 1.5 was trained to give short answers."""
EVALUATED: dict[str, str] = {
    "vqav2": SHORT,
    "gqa": SHORT,
    "textvqa": SHORT,
    "vizwiz": f"When the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}",
}
"""Sets of 1.5's table that are open questions -> the prompt. The paper's TextVQA also has a line of OCR tokens."""
HELD_IN = ("vqav2", "gqa")
"""The sets whose training splits are in the mixture of stage 2."""
LONGEST = 2048
"""Tokens per row, images included, in both papers' code."""
WARM_UP = 0.03
"""The fraction of the steps in which the learning rate rises."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One published training stage.

    Attributes:
      data: a prepared set.
      records: of the set as published.
      system: the system's options: template and image aspect ratio.
    """

    trainable: str
    data: str
    records: int
    epochs: int
    batch_size: int
    learning_rate: float
    system: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs."""
        return -(-self.records * self.epochs // self.batch_size)


PLAIN = {"conversation": "plain", "image_aspect_ratio": "square"}
STAGES: dict[str, dict[str, Stage]] = {
    "1.0": {
        "stage1": Stage("projector", "llava_cc3m_595k", 595_375, 1, 128, 2e-3, PLAIN),
        "stage2": Stage(
            "projector_and_llm",
            "llava_instruct_150k",
            157_712,
            3,
            32,
            2e-5,
            {"conversation": "v1", "image_aspect_ratio": "square"},
        ),
    },
    "1.5": {
        "stage1": Stage("projector", "llava_lcs_558k", 558_128, 1, 256, 1e-3, PLAIN),
        "stage2": Stage(
            "projector_and_llm",
            "llava_v1_5_mix665k",
            665_298,
            1,
            128,
            2e-5,
            {"conversation": "v1", "image_aspect_ratio": "pad"},
        ),
        "lora": Stage(
            "projector_and_lora",
            "llava_v1_5_mix665k",
            665_298,
            1,
            128,
            2e-4,
            {"conversation": "v1", "image_aspect_ratio": "pad", "lora": {"rank": 128, "alpha": 256}},
        ),
    },
}
"""Version -> stage -> its settings, from the papers' tables and the authors' scripts; 1.0 started with the template v0
and changed to v1. Numbers of records are those of the published files."""


def paper(
    model: str, version: str, slots: int, variants: Mapping[str, tuple[str, Mapping[str, Any]]], variant: str
) -> ConfigDict:
    """The run of one of `STAGES` from ``model``, changed by one of the ``variants``: name -> (stage, changes).

    ``slots``: tokens per image; the rest of `LONGEST` is for the text. Raises ValueError for an
    unknown variant.
    """
    if variant not in variants:
        raise ValueError(f"{model} has no variant {variant!r}; it has {', '.join(filter(None, variants))}")
    name, changes = variants[variant]
    stage = STAGES[version][name]
    config = complete(ConfigDict({"model": model, "steps": stage.steps, "batch_size": stage.batch_size}))
    config.trainable = stage.trainable
    config.system.update(stage.system)
    optim = config.optim
    optim.learning_rate, optim.warmup_start, optim.warmup_steps = stage.learning_rate, 0.0, int(WARM_UP * stage.steps)
    optim.weight_decay, optim.clip_norm = 0.0, 1.0
    if stage.trainable == "projector_and_lora":
        optim.rates = {"projector": 0.1}  # 2e-5, as in stage 2
    config.remat = "layer"
    config.layout = {"trained": "zero", "vit": "replicated", "llm": "replicated"}
    if stage.trainable == "projector_and_llm":  # masters and moments of the language model are too large for a chip
        config.layout.llm = "fsdp"
        config.mesh.data, config.mesh.fsdp = 1, -1
    config.mixture.sets = (stage.data,)
    text = LONGEST - slots
    captions = stage.system["conversation"] == "plain"
    config.data.instruction_lengths = (8,) if captions else (64, 128, 512)
    config.data.response_lengths = (32, 64, 128, 256) if captions else (128, 256, 512, text - 512)
    config.data.shapes, config.data.window = (0, 16) if captions else (8, 64)
    config.evaluation.held_in = HELD_IN
    config.evaluation.held_out = tuple(name for name in EVALUATED if name not in HELD_IN)
    config.evaluation.blind = False
    greedy = {"num_beams": 1, "max_new_tokens": 128, "min_new_tokens": 0, "repetition_penalty": 1.0}
    config.evaluation.settings = {name: {"prompt": prompt, **greedy} for name, prompt in EVALUATED.items()}
    with config.unlocked():
        config.update_from_flattened_dict(dict(changes))
    return config
