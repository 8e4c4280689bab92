"""A model's name -> its directory."""

import re
from pathlib import Path

WANTED = ["*.json", "*.safetensors", "qformer_tokenizer/*", "*.txt", "*.model", "*.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(model: str | Path) -> Path:
    """A directory as it is; a hub id ("org/name") through the hub's cache. Raises FileNotFoundError for neither."""
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(str(model)):
        raise FileNotFoundError(f"{model}: no such model directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model), allow_patterns=WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{model}: neither a directory here nor to be had from the hub ({reason})") from error
