"""Our own fields, shared by the layouts of Flamingo and Idefics, for the images that a token attends to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import one_of
from instructblip_jax.files import read_json, write_json
from instructblip_jax.processors.image import write_sizes
from instructblip_jax.systems.flamingo import SEES, FlamingoConfig

RULE, CHANCE = "sees", "next_picture"


def sight_fields(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's fields for the images that a token attends to. Raises ValueError naming file and field."""
    chance = raw.get(CHANCE) or 0.0
    if isinstance(chance, bool) or not isinstance(chance, (int, float)) or not 0 <= chance <= 1:
        raise ValueError(f"{path}: {CHANCE} is {chance!r}; it is a probability, from 0 to 1")
    return {RULE: one_of(path, RULE, raw.get(RULE) or SEES[0], SEES), CHANCE: float(chance)}


def describe(directory: Path, config: FlamingoConfig, sizes: Mapping[str, Any]) -> None:
    """Write the system's options into a model directory's configuration files, if they differ from the stored ones.

    ``sizes``: fields of the image settings for another image size.
    """
    path = directory / "config.json"
    raw = read_json(path)
    for field, value, default in ((RULE, config.sees, SEES[0]), (CHANCE, config.next_picture, 0.0)):
        if value != (raw.get(field) or default):
            raw[field] = value
    if config.stored_image_size:
        raw["vision_config"] = (raw.get("vision_config") or {}) | {"image_size": config.vision.image_size}
        write_sizes(directory, sizes)
    if raw != read_json(path):
        write_json(path, raw)
