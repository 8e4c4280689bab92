"""BLIP's runs according to its paper (arXiv 2201.12086) and code: pre-training and its tasks, as configurations.

In pre-training the code multiplies its learning rate by 0.9 after each epoch, and in the tasks it lowers a cosine
schedule once per epoch; ours is a cosine at every step, to the same final rate.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from instructblip_jax.recipes.albef import Task, run_of

IMAGES = 14_000_000
"""Number of images of COCO, Visual Genome, CC3M, CC12M and SBU together (section 4.1, "14M")."""
SETS = ("coco_pretrain", "vg_caption", "cc3m", "cc12m", "sbu")
QUEUE: dict[str, Any] = {"alpha": 0.4, "queue_size": 57_600}
WRITES: dict[str, Any] = {"label_smoothing": 0.1}
DEEP: dict[str, Any] = {"drop_path": 0.1}
"""Stochastic depth, in ViT-L and in the tasks whose code has it."""


def _task(*figures: Any, system: Mapping[str, Any], final: float = 0.0, **more: Any) -> Task:
    """A task with the weight decay and the RandAugment strength of all released configurations."""
    return dataclasses.replace(Task(*figures), system=system, final=final, decay=0.05, magnitude=5, **more)


def _before(model: str, batch_size: int, rate: float, system: Mapping[str, Any]) -> Task:
    """Pre-training: 20 epochs at 224 pixels, 3,000 steps of warm-up; the teacher's weight rises over two epochs."""
    figures = (model, SETS, IMAGES, 20, batch_size, rate, 3000, 30, 30)
    return _task(*figures, system=system, final=rate * 0.9**19, side=224, crop=0.2, start=1e-6, ramp=2)


def _retrieval(name: str, records: int) -> Task:
    return _task("blip-retrieval", (name,), records, 6, 256, 1e-5, 0, 35, 35, system=QUEUE, evaluated={name: {}})


CAPTION: dict[str, Any] = {"prompt": "a picture of", "num_beams": 3, "max_new_tokens": 16, "min_new_tokens": 1}
"""At most 20 and at least 5 tokens, including [DEC] and the prompt."""
BEAM: dict[str, Any] = {"num_beams": 3, "repetition_penalty": 1.0, "length_penalty": 1.0}
TASKS: dict[str, Task] = {
    # Section 4.1: batches and peaks of ViT-B and ViT-L, on 32 devices.
    "pretraining": _before("blip-new", 2880, 3e-4, QUEUE | WRITES),
    "pretraining_large": _before("blip-large-new", 2400, 2e-4, QUEUE | WRITES | DEEP),
    "retrieval_coco": _retrieval("coco_retrieval", 566_747),
    "retrieval_flickr": _retrieval("flickr30k_retrieval", 145_000),
    # Captions continue "a picture of"; 40 tokens in total.
    "captioning": _task(
        "blip-captioning",
        ("coco_caption",),
        566_747,
        5,
        256,
        1e-5,
        0,
        8,
        36,
        system=WRITES,
        evaluated={"coco_caption": {**BEAM, **CAPTION}},
    ),
    # Each visit draws one of a question's answers by its share; Visual Genome has a fifth of the weight.
    "vqa": _task(
        "blip-vqa",
        ("vqav2:train+val", "vg_qa"),
        443_757 + 214_354,
        10,
        256,
        2e-5,
        0,
        35,
        16,
        side=480,
        system=WRITES | DEEP,
        weights={"vg_qa": 0.2},
        evaluated={"vqav2": {**BEAM, "prompt": "{question}"}},
    ),
    "nlvr2": _task(
        "blip-nlvr2", ("nlvr2",), 86_373, 15, 256, 3e-5, 0, 64, 1, system=DEEP, exchange=True, evaluated={"nlvr2": {}}
    ),
}
"""Variant -> the settings of the released configurations, whose batch is that of 8 or 16 devices."""


def paper(variant: str) -> ConfigDict:
    """The run of one of `TASKS`. Raises ValueError for an unknown one."""
    if variant not in TASKS:
        raise ValueError(f"configs/blip.py has no variant {variant!r}; it has {', '.join(TASKS)}")
    return run_of(TASKS[variant])
