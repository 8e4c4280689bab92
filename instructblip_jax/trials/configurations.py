"""The configuration files of a series: their variants and runs."""

import runpy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from instructblip_jax.run.config import RunConfig, complete, resolve


def names_in(path: str, field: str) -> list[str]:
    """The variants that a file lists in its global variable ``field``; [] if it has none.

    Raises FileNotFoundError or ValueError naming the file.
    """
    return list(_globals(path).get(field, ()))


def systems(given: Sequence[str]) -> dict[str, str]:
    """Name -> FILE.py or FILE.py:VARIANT, for all ``given`` configurations; a file with SYSTEMS stands for all its
    variants.

    A configuration is named after its variant, or after its file if it has no variant. Raises FileNotFoundError, or
    ValueError if one is given twice.
    """
    whole: list[str] = []
    for one in given:
        path, _, variant = one.partition(":")
        listed = [] if variant else names_in(path, "SYSTEMS")
        whole += [f"{path}:{name}" for name in listed] or [one]
    if twice := [one for one, times in Counter(whole).items() if times > 1]:
        raise ValueError(f"--config names {', '.join(twice)} more than once")
    short = [one.partition(":")[2] or Path(one).stem for one in whole]
    long = [f"{Path(path).stem}_{variant}" for path, _, variant in (one.partition(":") for one in whole)]
    found = {
        (name if short.count(name) == 1 else other): one for name, other, one in zip(short, long, whole, strict=True)
    }
    if len(found) < len(whole):
        raise ValueError("--config: two files have the same name and variant; copy one of them to another name")
    return found


def run_of(given: str) -> RunConfig:
    """The run of FILE.py or FILE.py:VARIANT. Raises FileNotFoundError or ValueError naming the file."""
    path, _, variant = given.partition(":")
    get_config = _globals(path).get("get_config")
    if get_config is None:
        raise ValueError(f"{path}: has no get_config()")
    try:
        config = get_config(*filter(None, [variant]))
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config() returns a {type(config).__name__}, not a ConfigDict")
        return resolve(complete(config))
    except Exception as error:  # the file may raise anything
        raise ValueError(f"{given}: {_line(error)}") from error


def _globals(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such configuration file")
    try:
        return runpy.run_path(path)
    except Exception as error:  # the file may raise anything
        raise ValueError(f"{path}: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"
