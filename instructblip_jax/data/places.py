"""Where a prepared set lies, and what its files hold."""

import re
from pathlib import Path

import tensorflow_datasets as tfds

VERSION = tfds.core.Version("2.0.0")
FEATURES = {
    "images": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
    "record": tfds.features.Text(),
}
"""Of an example: encoded pictures, and as JSON all else of its `Record`."""


def directory_of(out: str | Path, name: str) -> Path:
    """Where the set ``name`` lies under ``out``. Raises ValueError for one that is not a local directory."""
    if "://" in str(out):
        raise ValueError(
            f"{out}: sets are read from local directories only (ArrayRecord files are); mount the bucket with gcsfuse "
            "and give the directory under it, or copy the sets: gcloud storage cp -r"
        )
    return Path(out) / name / str(VERSION)


def incomplete(out: str | Path, name: str) -> Path:
    """Where the set is written, until it is whole."""
    directory = directory_of(out, name)
    return directory.with_name(f"{directory.name}.incomplete")


def is_prepared(out: str | Path, name: str) -> bool:
    """Whether the set is there, whole: it is written elsewhere and renamed when finished."""
    return (directory_of(out, name) / "dataset_info.json").is_file()


def on_disk(split: str) -> str:
    """An official split name as files are called by it: "zeroshot/test" -> "zeroshot_test"."""
    return re.sub(r"\W", "_", split, flags=re.ASCII)
