"""Checked fields of a ``config.json``. An absent field has Hugging Face's class default, as in our dataclasses."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)
"""The largest number accepted: everything is computed in float32 at most."""


def checked(path: Path, field: str, value: Any, kind: type) -> Any:
    """``value``, if it is of its type: a count of at least 1, an id of at least 0, or a finite number of at least 0.

    Raises ValueError naming file and field.
    """
    number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if not (number if kind in (int, float) else isinstance(value, kind)):
        raise ValueError(f"{path}: {field} is {value!r}, not of type {kind.__name__}")
    least = 0 if kind is float or field.partition("[")[0].endswith("_id") else 1
    if kind is int and value < least:
        raise ValueError(f"{path}: {field} is {value}; it must be at least {least}")
    if kind is float and not least <= value <= LARGEST:  # false for NaN
        raise ValueError(f"{path}: {field} is {value}; it must be a finite number of at least {least}")
    return value


def _ends(path: Path, field: str, value: Any) -> int | tuple[int, ...]:
    """One end token, or several. Raises ValueError as `checked` does."""
    if not isinstance(value, list):
        return checked(path, field, value, int)
    if not value:
        raise ValueError(f"{path}: {field} is an empty list; name a token that ends an answer, or leave it out")
    return tuple(checked(path, f"{field}[{n}]", token, int) for n, token in enumerate(value))


def fields(path: Path, name: str, config_class: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``config_class`` that a section has; null counts as absent, and so does the padding id -1 of older
    LLaMA files. ``name``: the section's, "" for the top of the file. Raises ValueError as `checked` does."""
    where = f"{name}." if name else ""
    return {
        field: _ends(path, f"{where}{field}", section[field])
        if field == "eos_token_id"
        else checked(path, f"{where}{field}", section[field], kind)
        for field, kind in typing.get_type_hints(config_class).items()
        if section.get(field) is not None and not (field == "pad_token_id" and section[field] == -1)
    }


def must_be(path: Path, section: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError if text_config requires an unsupported form; absent or null is accepted."""
    for field, value in wanted.items():
        if section.get(field) is not None and section[field] != value:
            raise ValueError(f"{path}: text_config.{field} is {section[field]!r}; only {value!r} is supported")


def one_of(path: Path, field: str, value: Any, known: tuple[str, ...]) -> str:
    """``value``, if it is a known one. Raises ValueError naming file and field."""
    if value not in known:
        raise ValueError(f"{path}: {field} is {value!r}; expected one of {', '.join(filter(None, known))}")
    return value


def section_of(path: Path, raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a config.json; {} if there is none. Raises ValueError if it is not an object."""
    section = raw.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{path}: {name} is not an object")
    return section


def check_patches(path: Path, section: str, image: int, patch: int) -> None:
    """Raise ValueError if the image size of a tower's section ("": top level) is not a multiple of its patch size."""
    if image % patch:
        field = f"{section}.image_size" if section else "image_size"
        raise ValueError(f"{path}: {field} {image} is not a multiple of patch_size {patch}")


def check_divisible(path: Path, section: str, width: int, heads: int) -> None:
    """Raise ValueError if the width of a section ("": top level) is not a multiple of its number of attention heads."""
    if width % heads:
        field = f"{section}.hidden_size" if section else "hidden_size"
        raise ValueError(f"{path}: {field} {width} is not a multiple of num_attention_heads {heads}")
