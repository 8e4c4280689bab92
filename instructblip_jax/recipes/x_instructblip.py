"""X-InstructBLIP's runs according to its authors' configurations (arXiv 2311.18799): one modality at a time, each on
its own data, for `configs/`. Only their code has the sizes, weights and steps.

The learning rates are InstructBLIP's, 1e-8 to 1e-5 in 1,000 steps and a cosine to 0, which the original lowers once in
5,000 steps (1,000 for video) and we lower at every step.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from instructblip_jax.recipes.blip2 import chosen
from instructblip_jax.recipes.x_instructblip_judged import JUDGED, settings_of
from instructblip_jax.run.config import complete


class Run(NamedTuple):
    """One modality: steps and rows for a language model of 7B and of 13B, and the sampling weight of each set."""

    steps: tuple[int, int]
    rows: tuple[int, int]
    sets: Mapping[str, float]


RUNS = {
    "image": Run(
        (65_000, 750_000),
        (64, 64),
        {
            "cc12m": 0.1944,
            "coco_caption": 0.0596,
            "capfilt": 0.2948,
            "vg_caption": 0.0718,
            "sbu": 0.0734,
            "vg_qa": 0.0950,
            "vqav2": 0.0642,
            "ocrvqa": 0.0792,
            "okvqa": 0.0075,
            "aokvqa": 0.0103,
            "llava_instruct_150k": 0.0497,
        },
    ),
    "video": Run((15_000, 25_000), (32, 8), {"msrvtt_caption": 1.0, "msrvtt_qa": 0.1786, "webvid": 0.6544}),
    "audio": Run(
        (65_000, 300_000),
        (64, 16),
        {"audiocaps": 0.1936, "audiocaps_qa": 0.1529, "wavcaps": 0.5365, "audioset": 0.1170},
    ),
    "pc": Run((65_000, 355_000), (128, 32), {"cap3d": 0.6175, "cap3d_qa": 0.3825}),
}
"""Modality -> its run. COCO's and MSR-VTT's captions have manual weights; the others are square roots of sizes."""
COCO_13B = 0.3
"""The weight of COCO's captions for 13B (its run is then continued for 40,000 steps with 3.0)."""
LARGE = "_13b"
"""Suffix of a variant's name for a language model of 13B."""


def paper(variants: Mapping[str, Mapping[str, Any]], variant: str) -> ConfigDict:
    """A modality's run, "audio" or "audio_13b", with the changes of one of the ``variants``.

    Raises ValueError for an unknown variant.
    """
    changes = dict(chosen("x_instructblip", variants, variant))
    modality, large = variant.partition("_")[0], LARGE in variant
    run, size = RUNS[modality], "13b" if large else "7b"
    config = complete(
        ConfigDict(
            {
                "model": f"x-instructblip-{modality}-{size}-new",
                "steps": run.steps[large],
                "batch_size": run.rows[large],
            }
        )
    )
    config.trainable = f"qformer_{modality}"
    config.seed = 42
    config.checkpoint_every = 1000 if modality == "video" else 5000
    config.layout = {"trained": "zero", "vit": "replicated", "beats": "replicated", "point_bert": "replicated"}
    config.layout.llm = "replicated"
    config.remat = "layer"
    weights = {**run.sets, "coco_caption": COCO_13B} if modality == "image" and large else run.sets
    config.mixture.sets, config.mixture.exponent, config.mixture.weights = tuple(run.sets), 0.0, dict(weights)
    config.data.instruction_lengths, config.data.response_lengths = (32, 64, 128), (16, 64, 256)
    if modality in ("image", "video"):
        config.data.augment.crop = 0.9
    if modality == "video":
        config.data.augment.flip, config.data.augment.operations = True, 2
    config.data.templates = "senses"
    judged = JUDGED[modality]
    config.evaluation.held_in, config.evaluation.held_out, config.evaluation.blind = *judged, False
    config.evaluation.settings = settings_of(judged.held_in + judged.held_out)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config
