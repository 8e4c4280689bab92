"""The small JSON files of a model directory."""

import json
from pathlib import Path
from typing import Any

from etils import epath


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
