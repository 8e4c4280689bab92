"""The directory, the files and the versions of a prepared set."""

import re
from pathlib import Path

import tensorflow_datasets as tfds

VERSION, OLDER = "3.0.0", "2.0.0"
"""The version that is written, and the previous one, which can also be read."""
MEDIA, PICTURES, RECORD = "media", "images", "record"
"""Fields of an example: encoded media (in `OLDER` sets images), and the rest of its `Record` as JSON."""
FEATURES = {
    MEDIA: tfds.features.Sequence(tfds.features.Text()),
    RECORD: tfds.features.Text(),
}
"""The fields of an example of `VERSION`; TFDS's Text is any byte string."""
REPORT, VOCABULARY, SUFFIX = "report.json", "vocabulary.json", ".array_record"
"""Files next to the records: counts, and (if any) the answers to be ranked; the suffix of record files."""


def directory_of(out: str | Path, name: str) -> Path:
    """The directory of the set ``name`` under ``out``: that of `OLDER` if only that one is prepared, else that of
    `VERSION`. Raises ValueError if ``out`` is not a local directory."""
    directory = new_directory(out, name)
    older = directory.with_name(OLDER)
    return older if _is_whole(older) and not _is_whole(directory) else directory


def new_directory(out: str | Path, name: str) -> Path:
    """The directory that the set ``name`` gets when it is written. Raises ValueError if ``out`` is not local."""
    if "://" in str(out):
        raise ValueError(
            f"{out}: sets are read from local directories only (ArrayRecord files are); mount the bucket with gcsfuse "
            "and give the directory under it, or copy the sets: gcloud storage cp -r"
        )
    return Path(out) / name / VERSION


def incomplete(out: str | Path, name: str) -> Path:
    """The directory in which the set is written until it is complete."""
    directory = new_directory(out, name)
    return directory.with_name(f"{directory.name}.incomplete")


def is_prepared(out: str | Path, name: str) -> bool:
    """True if the set exists and is complete: it is written elsewhere and renamed when finished."""
    return _is_whole(directory_of(out, name))


def other_versions(directory: Path) -> list[str]:
    """The complete versions of a set, next to its directory, that cannot be read here."""
    there = sorted(path.parent.name for path in directory.parent.glob("*/dataset_info.json"))
    return [version for version in there if re.fullmatch(r"\d+\.\d+\.\d+", version) and version not in (VERSION, OLDER)]


def on_disk(split: str) -> str:
    """An official split name as used in files: "zeroshot/test" -> "zeroshot_test"."""
    return re.sub(r"\W", "_", split, flags=re.ASCII)


def _is_whole(directory: Path) -> bool:
    return (directory / "dataset_info.json").is_file()
