"""Small files, local or on gs://: reading and writing JSON, atomic writes, checks of paths before any work."""

import importlib.util
import json
import secrets
from pathlib import Path
from typing import Any

from etils import epath

PARTIAL = ".partial"
"""Suffix of a file that is still being written."""


def check_installed(argument: str) -> None:
    """Raise ValueError if ``argument`` has a gs:// path and the packages for these are not installed."""
    needed = ("gcsfs", "google.cloud.storage")
    try:
        installed = "gs://" not in argument or all(importlib.util.find_spec(name) for name in needed)
    except ModuleNotFoundError:  # google.cloud itself is missing
        installed = False
    if not installed:
        raise ValueError(f"{argument}: gs:// paths need two more packages: pip install -e '.[gcs]'")


def check_json(path: str | None) -> None:
    """Raise ValueError if a command's --json file cannot be written. Call it before the work starts."""
    if path is None or "://" in path:
        return
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"--json {path}: there is no such directory; create it first")
    if Path(path).is_dir():
        raise ValueError(f"--json {path} is a directory; name a file in it")


def write_json(path: str | epath.Path | Path, content: Any) -> None:
    """Write indented JSON."""
    epath.Path(path).write_text(json.dumps(content, indent=2) + "\n")


def write_whole(path: epath.Path, content: str) -> None:
    """Write a text file atomically. If several processes write the same file, the last one wins."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    partial.write_text(content)
    partial.replace(path)


def read_json(path: Path | epath.Path) -> dict[str, Any]:
    """Read a JSON object. Raises FileNotFoundError or ValueError naming the file, for any content."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model is a directory in the Hugging Face layout")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not readable JSON (nested too deeply)") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: contains a {type(content).__name__}, not an object")
    return content
