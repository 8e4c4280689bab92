"""ALBEF's runs according to its paper (arXiv 2107.07651) and code: pre-training and five tasks, as configurations.

The code lowers its cosine schedule once per epoch, ours at every step; the learning rate is otherwise the same.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from instructblip_jax.run.config import complete

IMAGES = 4_000_000
"""Number of images of COCO, Visual Genome, CC3M and SBU together (section 4, "4M")."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One published training run.

    Attributes:
      model: a directory, made as in `configs/albef.py`.
      records: per epoch.
      side: image size in pixels per side.
      learning_rate: the peak, after ``warmup`` steps from 1e-5.
      final: the rate at the end.
      crop: the minimum fraction of an image in a random crop.
      ramp: number of epochs in which the teacher's weight rises from 0.
      prompt, response: the longest texts in tokens.
      start: the rate before the warm-up.
      decay, magnitude: AdamW's weight decay, and RandAugment's strength.
      system: more of the system's options.
      exchange: exchange the two images of a record, and the words for their sides.
    """

    model: str
    sets: tuple[str, ...]
    records: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup: int
    prompt: int
    response: int
    side: int = 384
    final: float = 1e-6
    crop: float = 0.5
    ramp: int = 1
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    evaluated: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    start: float = 1e-5
    decay: float = 0.02
    magnitude: int = 7
    system: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"alpha": 0.4})
    exchange: bool = False

    @property
    def epoch(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.records // self.batch_size)


TASKS: dict[str, Task] = {
    # Table of section 4 and the released configuration: 30 epochs, 8 devices of 64, warm-up as in the code.
    "pretraining": Task(
        "albef-new",
        ("coco_pretrain", "vg_caption", "cc3m", "sbu"),
        IMAGES,
        30,
        512,
        1e-4,
        2000,
        25,
        25,
        side=256,
        final=1e-5,
        crop=0.2,
    ),
    "retrieval_coco": Task(
        "albef-retrieval",
        ("coco_retrieval",),
        566_747,
        5,
        256,
        1e-5,
        0,
        30,
        30,
        evaluated={"coco_retrieval": {}},
    ),
    "retrieval_flickr": Task(
        "albef-retrieval",
        ("flickr30k_retrieval",),
        145_000,
        10,
        256,
        1e-5,
        0,
        30,
        30,
        evaluated={"flickr30k_retrieval": {}},
    ),
    # Each visit draws one of a question's answers by its share; Visual Genome has half the weight.
    "vqa": Task(
        "albef-vqa",
        ("vqav2:train+val", "vg_qa"),
        443_757 + 214_354,
        8,
        256,
        2e-5,
        400,
        25,
        16,
        weights={"vg_qa": 0.5},
        evaluated={"vqav2": {"prompt": "{question}", "num_beams": 3, "repetition_penalty": 1.0, "length_penalty": 1.0}},
    ),
    "nlvr2": Task("albef-nlvr2", ("nlvr2",), 86_373, 10, 128, 2e-5, 100, 64, 1, evaluated={"nlvr2": {}}),
    "snli_ve": Task(
        "albef-snli-ve", ("snli_ve",), 529_527, 5, 256, 2e-5, 100, 64, 1, ramp=0, evaluated={"snli_ve": {}}
    ),
}
"""Variant -> its settings; the batch in the released configurations is that of 8 devices."""


def paper(variant: str) -> ConfigDict:
    """The run of one of `TASKS`. Raises ValueError for an unknown one."""
    if variant not in TASKS:
        raise ValueError(f"configs/albef.py has no variant {variant!r}; it has {', '.join(TASKS)}")
    return run_of(TASKS[variant])


def run_of(task: Task) -> ConfigDict:
    """A task's run."""
    steps = task.epochs * task.epoch
    config = complete(ConfigDict({"model": task.model, "steps": steps, "batch_size": task.batch_size}))
    config.checkpoint_every = task.epoch
    config.image_size = task.side
    config.system = dict(task.system)
    if "alpha" in task.system:
        config.system["ramp_steps"] = task.ramp * task.epoch
    config.remat = "layer"
    config.layout = {"trained": "zero", "vit": "zero"}
    optim = config.optim
    optim.learning_rate, optim.final_learning_rate = task.learning_rate, task.final
    optim.warmup_start, optim.warmup_steps = task.start, task.warmup
    optim.weight_decay, optim.beta2 = task.decay, 0.999
    config.mixture.sets, config.mixture.exponent, config.mixture.weights = task.sets, 1.0, task.weights
    config.data.templates = "bare"
    config.data.instruction_lengths, config.data.response_lengths = (task.prompt,), (task.response,)
    augment = config.data.augment
    augment.crop, augment.flip, augment.operations, augment.magnitude = task.crop, True, 2, task.magnitude
    augment.exchange = task.exchange
    config.evaluation.held_in, config.evaluation.settings = tuple(task.evaluated), task.evaluated
    config.evaluation.blind = False
    return config
