"""Small JSON files, of a model directory and for programs; local, or gs://."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from etils import epath


def check_installed(argument: str) -> None:
    """Raise ValueError where a gs:// path is meant and what reads and writes these is not installed."""
    needed = ("gcsfs", "google.cloud.storage")
    try:
        there = "gs://" not in argument or all(importlib.util.find_spec(name) for name in needed)
    except ModuleNotFoundError:  # of google.cloud, a parent
        there = False
    if not there:
        raise ValueError(f"{argument}: gs:// paths need two more packages: pip install 'instructblip_jax[gcs]'")


def check_json(path: str | None) -> None:
    """Raise ValueError where a command's --json cannot be written: before the work, not after it."""
    if path is None or "://" in path:
        return
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"--json {path}: there is no such directory; make it first")
    if Path(path).is_dir():
        raise ValueError(f"--json {path}: is a directory; name a file in it")


def write_json(path: str, content: Any) -> None:
    """What a command's --json asks for."""
    epath.Path(path).write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: Path | epath.Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError or ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model is a directory in the Hugging Face layout")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not an object")
    return content
