"""Models on the hub: a name (a directory, hub id, gs:// path or embedded model) -> a local directory, and uploads."""

import os
import re
from pathlib import Path

from etils import epath
from tqdm import tqdm

from instructblip_jax import embedded, files

WANTED = ["*.json", "*.safetensors", "qformer_tokenizer/*", "*.txt", "*.model", "*.jinja", "README.md"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SMALL = 1 << 20  # bytes; smaller files may change without changing their size, so they are fetched every time
_PIECE = 1 << 24  # bytes read at once


def is_hub_id(name: str) -> bool:
    """True for "org/name", unless it is a directory here."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).is_dir()


def resolve(model: str | Path) -> Path:
    """Return a directory unchanged, download a hub id ("org/name") into the hub's cache, copy gs:// into our own cache.

    A name that is no directory here may be an embedded model's: "digits", or one that `embedded` assembles.

    Raises FileNotFoundError if ``model`` is none of these or cannot be downloaded.
    """
    if str(model).startswith("gs://"):
        return _copy(str(model))
    path = Path(model)
    if path.is_dir():
        return path
    if not path.exists() and str(model) in embedded.NAMES:
        return embedded.model(str(model))
    if path.exists() or not is_hub_id(str(model)):
        raise FileNotFoundError(f"{model}: no such model directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model), allow_patterns=WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{model}: not a local directory, and not available from the hub ({reason})") from error


def _copy(model: str) -> Path:
    """Copy the files of a model at gs://BUCKET/PATH to ~/.cache/instructblip_jax/gs/BUCKET/PATH.

    A large file that already exists with the right size is not fetched again. Files being fetched have a temporary
    name. Raises FileNotFoundError if there is no config.json, ValueError if support for gs:// is not installed.
    """
    files.check_installed(model)
    remote = epath.Path(model)
    found = {str(path.relative_to(remote)): path for pattern in WANTED for path in remote.glob(pattern)}
    if "config.json" not in found:
        raise FileNotFoundError(f"{model}: no config.json there; a model is a directory in the Hugging Face layout")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "instructblip_jax" / "gs"
    local = cache / model.removeprefix("gs://").strip("/")
    sizes = {name: path.stat().length for name, path in found.items()}
    for path in list(local.glob("*")):  # left over from an earlier model
        if path.is_file() and path.suffix != ".partial" and path.name not in found:
            path.unlink()
    with tqdm(total=sum(sizes.values()), desc=f"fetching {model}", unit="B", unit_scale=True, delay=2) as bar:
        for name, size in sizes.items():
            path = local / name
            if size < _SMALL or not path.is_file() or path.stat().st_size != size:
                _fetch(found[name], path, bar)
            else:
                bar.update(size)
    return local


def _fetch(remote: epath.Path, path: Path, bar: tqdm) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f"{path.name}.{os.getpid()}.partial"
    )  # several processes of a host may fetch at the same time
    with remote.open("rb") as source, partial.open("wb") as target:
        while piece := source.read(_PIECE):
            target.write(piece)
            bar.update(len(piece))
    partial.replace(path)


def to_upload(directory: Path) -> dict[str, int]:
    """The files of a model or adapter directory, by path within it, and their sizes in bytes.

    Raises FileNotFoundError if it is neither.
    """
    if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(f"{directory}: holds no exported model (there is no config.json)")
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in found}


def check_token() -> None:
    """Raise ValueError if there is no token for the hub."""
    from huggingface_hub import get_token

    if not get_token():
        raise ValueError("uploading needs a token of the hub that may write: run `hf auth login`, or set HF_TOKEN")


def upload(directory: Path, repository: str) -> str:
    """Upload a directory's files to the model repository "org/name", which is made private if it is not there yet.

    Returns the address of the commit. Raises ValueError if there is no token, or if the hub refuses or is not reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    check_token()
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=directory, commit_message="Upload by instructblip_jax")
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{repository}: not uploaded ({str(error).strip().splitlines()[0]})") from error
    return str(done.commit_url)
