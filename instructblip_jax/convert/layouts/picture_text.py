"""Read a config.json of ALBEF or BLIP: sections of tower and text model, and the form named in ``architectures``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from instructblip_jax.convert.config_fields import check_divisible, check_patches
from instructblip_jax.convert.rule import Shape
from instructblip_jax.files import read_json
from instructblip_jax.models.language.bert import BertConfig
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.pairs import TEMPERATURE


class Sections(NamedTuple):
    """A config.json: all of it, the form that it names, and two of its sections."""

    raw: dict[str, Any]
    task: str
    vision: dict[str, Any]
    text: dict[str, Any]


def read(path: Path, kind: str, tasks: Mapping[str, str]) -> Sections:
    """A config.json whose model_type is ``kind``; ``tasks``: form -> its name in ``architectures``.

    Raises FileNotFoundError or ValueError naming the file and the field.
    """
    raw = read_json(path)
    if raw.get("model_type") != kind:
        raise ValueError(f"{path}: model_type is {raw.get('model_type')!r}; this layout is that of {kind}")
    task = task_of(path, raw, tasks)
    for name in ("vision_config", "text_config"):
        if not isinstance(raw.get(name) or {}, dict):
            raise ValueError(f"{path}: {name} is not an object")
    return Sections(raw, task, raw.get("vision_config") or {}, raw.get("text_config") or {})


def task_of(path: Path, raw: Mapping[str, Any], tasks: Mapping[str, str]) -> str:
    """The form that a config.json names. Raises ValueError naming the file and the known forms."""
    names, known = raw.get("architectures"), {name: task for task, name in tasks.items()}
    found = [known[name] for name in names or () if name in known] if isinstance(names, list) else []
    if len(found) != 1:
        raise ValueError(f"{path}: architectures is {names!r}; it is one of {', '.join(known)}")
    return found[0]


def check_sizes(path: Path, vision: VitConfig, text: BertConfig) -> None:
    """Raise ValueError naming a field for invalid sizes or activations."""
    for name, value in (("vision_config", vision.hidden_act), ("text_config", text.hidden_act)):
        if value not in ACTIVATIONS:
            raise ValueError(f"{path}: {name}.hidden_act is {value!r}; expected one of {', '.join(ACTIVATIONS)}")
    check_patches(path, "vision_config", vision.image_size, vision.patch_size)
    check_divisible(path, "vision_config", vision.hidden_size, vision.num_attention_heads)
    check_divisible(path, "text_config", text.hidden_size, text.num_attention_heads)


def first_temperature(key: jax.Array, shape: Shape) -> jax.Array:
    """The temperature for a file without one, as `Rule.new` takes it: Hugging Face's classes do not have it."""
    return jnp.full(shape, TEMPERATURE, jnp.float32)
