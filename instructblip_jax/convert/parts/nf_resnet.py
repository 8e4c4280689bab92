"""NF-ResNet. There are no public safetensors files: the names are ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked
from instructblip_jax.convert.rule import Rule, Transform
from instructblip_jax.models.towers.nf_resnet import NfResNetConfig, stage_name

KIND = "nf_resnet"
"""model_type of a vision_config."""
CONVOLUTION = Transform(
    lambda s: (s[3], s[2], s[0], s[1]), lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
"""torch has [out, in, height, width], we have [height, width, in, out]."""


def read_config(path: Path, section: Mapping[str, Any]) -> NfResNetConfig:
    """A ``vision_config`` -> its dataclass, by default NF-ResNet-50's. Raises ValueError naming file and field."""
    found: dict[str, Any] = {}
    for field in ("stem_width", "image_size"):
        if section.get(field) is not None:
            found[field] = checked(path, f"vision_config.{field}", section[field], int)
    for field in ("widths", "depths"):
        if section.get(field) is not None:
            values = checked(path, f"vision_config.{field}", section[field], list)
            found[field] = tuple(
                checked(path, f"vision_config.{field}[{n}]", value, int) for n, value in enumerate(values)
            )
    config = NfResNetConfig(**found)
    if len(config.widths) != len(config.depths) or any(width % 4 for width in config.widths):
        raise ValueError(
            f"{path}: vision_config has widths {list(config.widths)} and depths {list(config.depths)}; there must be "
            "one of each per stage, and widths must be multiples of 4"
        )
    return config


def rules(config: NfResNetConfig, ours: str, theirs: str) -> list[Rule]:
    """The table."""
    table = _convolution(f"{ours}stem", f"{theirs}stem")
    inputs = config.stem_width
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        first, rest = (f"{ours}{stage_name(stage)}/{name}" for name in ("first", "rest"))
        table += _block(first, f"{theirs}blocks.{stage}.0", beside=stage > 0 or width != inputs)
        if depth > 1:
            table += _block(rest, f"{theirs}blocks.{stage}.{{layer}}", beside=False, start=1)
        inputs = width
    return table


def _block(ours: str, theirs: str, *, beside: bool, start: int = 0) -> list[Rule]:
    table = [Rule(f"{ours}/skip_gain", f"{theirs}.skip_gain", start=start)]
    for name in ("conv0", "conv1", "conv2", *(("shortcut",) if beside else ())):
        table += _convolution(f"{ours}/{name}", f"{theirs}.{name}", start)
    return table


def _convolution(ours: str, theirs: str, start: int = 0) -> list[Rule]:
    return [
        Rule(f"{ours}/kernel", f"{theirs}.weight", CONVOLUTION, start=start),
        Rule(f"{ours}/gain", f"{theirs}.gain", start=start),
        Rule(f"{ours}/bias", f"{theirs}.bias", start=start),
    ]
