"""Sample instructions and a sample image for the page."""

import io
from collections.abc import Collection

import numpy as np
from PIL import Image

from instructblip_jax.datasets.digits import records, scene
from instructblip_jax.datasets.digits.templates import TEMPLATES

GENERAL = (
    ("describe", "Describe the picture in detail."),
    ("caption", "A short image caption:"),
    ("question", "Question: What is in the picture? Short answer:"),
    ("count", "How many people are in the picture?"),
)
SEED = 7

Instruction = dict[str, str]


def instructions(sets: Collection[str] | None) -> list[Instruction]:
    """Instructions by task. ``sets``: the digits world's sets that the model was trained on, empty for all of them;
    None for any other model."""
    if sets is None:
        return [{"task": task, "text": text} for task, text in GENERAL]
    rng = np.random.default_rng(SEED)
    return [
        {"task": task, "text": templates[0].format(**records.question(task, rng)[1][0])}
        for task, templates in TEMPLATES.items()
        if not sets or task in sets
    ]


def is_digits(sets: Collection[str]) -> bool:
    """True if all of these are sets of the digits world."""
    return bool(sets) and set(sets) <= TEMPLATES.keys()


def picture() -> bytes | None:
    """A scene of the digits world as a PNG file; None if scikit-learn, which has the scans, is not installed."""
    rng = np.random.default_rng(SEED)
    try:
        pixels = scene.render(scene.draw(rng), "test", rng)
    except ModuleNotFoundError:
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
