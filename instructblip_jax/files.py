"""Small files: JSON of a model directory and for programs, what is written whole; local, or gs://."""

import importlib.util
import json
import secrets
from pathlib import Path
from typing import Any

from etils import epath

PARTIAL = ".partial"
"""End of the name of a file that is being written."""


def check_installed(argument: str) -> None:
    """Raise ValueError where a gs:// path is meant and what reads and writes these is not installed."""
    needed = ("gcsfs", "google.cloud.storage")
    try:
        there = "gs://" not in argument or all(importlib.util.find_spec(name) for name in needed)
    except ModuleNotFoundError:  # of google.cloud, a parent
        there = False
    if not there:
        raise ValueError(f"{argument}: gs:// paths need two more packages: pip install -e '.[gcs]'")


def check_json(path: str | None) -> None:
    """Raise ValueError where a command's --json cannot be written: before the work, not after it."""
    if path is None or "://" in path:
        return
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"--json {path}: there is no such directory; make it first")
    if Path(path).is_dir():
        raise ValueError(f"--json {path}: is a directory; name a file in it")


def write_json(path: str | epath.Path | Path, content: Any) -> None:
    """Write indented JSON."""
    epath.Path(path).write_text(json.dumps(content, indent=2) + "\n")


def write_whole(path: epath.Path, content: str) -> None:
    """Write a text file whole or not at all; several processes may write the same one, and the last one stays."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    partial.write_text(content)
    partial.replace(path)


def read_json(path: Path | epath.Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError or ValueError naming the file, whatever is in it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model is a directory in the Hugging Face layout")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # text that is no JSON, bytes that are no text, numbers of thousands of digits
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not readable JSON (nested too deeply)") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not an object")
    return content
