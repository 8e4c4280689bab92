"""Prepared sets: TFDS data sets in ArrayRecord files, written and read without TensorFlow."""

import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from instructblip_jax.data.record import Record

VERSION = tfds.core.Version("2.0.0")
VOCABULARY = "vocabulary.json"
FEATURES = {
    "images": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
    "record": tfds.features.Text(),
}
"""Of an example: encoded pictures, and as JSON all else of its `Record`."""
Make = Callable[[], Iterator[Record]]


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One set as a TFDS data set: pictures and, as JSON, the rest of their record."""

    VERSION = VERSION
    pkg_dir_path = Path(__file__).parent
    url_infos: ClassVar[dict] = {}  # nothing is downloaded

    def __init__(self, name: str, splits: Mapping[str, Make], **kwargs: Any):
        self.name, self._splits = name, splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(FEATURES))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._examples(split, make) for split, make in self._splits.items()}

    def _examples(self, split: str, make: Make) -> Iterator[tuple[str, dict[str, Any]]]:
        empty = True
        for record in make():
            empty = False
            yield record.uid, {"images": list(record.images), "record": record.to_json()}
        if empty:
            raise ValueError(f"{self.name}: no record in the split {split}, so the set is not written")

    def _generate_examples(self) -> None:
        raise AssertionError("every split brings its own generator")


def directory_of(out: str | Path, name: str) -> Path:
    """Where the set ``name`` lies under ``out``. Raises ValueError for one that is not a local directory."""
    if "://" in str(out):
        raise ValueError(
            f"{out}: sets are read from local directories only (ArrayRecord files are); mount the bucket with gcsfuse "
            "and give the directory under it, or copy the sets: gcloud storage cp -r"
        )
    return Path(out) / name / str(VERSION)


def is_prepared(out: str | Path, name: str) -> bool:
    """Whether the set is there, whole: it is written elsewhere and renamed when finished."""
    return (directory_of(out, name) / "dataset_info.json").is_file()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own bars and messages; ours say the same in a line."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)


def write(out: str | Path, name: str, splits: Mapping[str, Make]) -> dict[str, int]:
    """Write the set ``name`` (split -> maker of its records) under ``out``; split -> number of records written.

    A set that is there already is left as it is. Raises ValueError for a split without records.
    """
    directory_of(out, name)
    with _quiet(), contextlib.redirect_stdout(None):
        builder = _Builder(name, splits, data_dir=str(out), file_format="array_record")
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    return {split: builder.info.splits[split].num_examples for split in splits}


class _Encoded(tfds.decode.SkipDecoding):
    """Pictures as they were stored, in sequences, too."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example


@dataclasses.dataclass(frozen=True)
class Source:
    """Random access to the records of a prepared split; what Grain reads."""

    directory: Path
    split: str

    def __post_init__(self) -> None:
        if not (self.directory / "dataset_info.json").is_file():
            out = self.directory.parent.parent
            there = sorted(path.parent.parent.name for path in out.glob("*/*/dataset_info.json"))
            raise FileNotFoundError(
                f"{self.directory}: no such prepared set; {out} holds {', '.join(there) or 'none'}, "
                f"and `instructblip prepare NAME --out {out}` writes more"
            )
        with _quiet():
            builder = tfds.builder_from_directory(str(self.directory))
            if self.split not in builder.info.splits:
                raise ValueError(
                    f"{self.directory}: has no split {self.split!r}; it has {', '.join(builder.info.splits)}"
                )
            decoders = {"images": _Encoded()}
            object.__setattr__(self, "_data", builder.as_data_source(self.split, decoders=decoders))

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[attr-defined]

    @functools.cached_property
    def frames(self) -> int:
        """Pictures that a record has at most, at least 1."""
        return max(1, len(self[0].images))

    def __getitem__(self, index: int) -> Record:
        try:
            example = self._data[index]  # type: ignore[attr-defined]
            return Record.from_json(example["record"], example["images"])
        except (RuntimeError, TypeError, KeyError, ValueError) as error:  # the reader tells corruption in several ways
            raise ValueError(
                f"{self.directory}: record {index} of {self.split} is corrupt ({error}); remove the set and prepare it"
            ) from error


def sizes(out: str | Path, name: str) -> dict[str, int]:
    """The splits of a prepared set -> their number of records."""
    splits = tfds.builder_from_directory(str(directory_of(out, name))).info.splits
    return {split: info.num_examples for split, info in splits.items()}


def split_of(name: str, default: str) -> tuple[str, str]:
    """ "gqa:train_balanced" -> ("gqa", "train_balanced"); a bare name has the split ``default``."""
    bare, _, split = name.partition(":")
    return bare, split or default


def vocabulary(out: str | Path, name: str) -> list[str]:
    """The answers that are ranked for a set that is judged by a vocabulary. Raises FileNotFoundError without them."""
    path = directory_of(out, name) / VOCABULARY
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no vocabulary; `instructblip prepare {name}` writes it where the set has one")
    return json.loads(path.read_text(encoding="utf-8"))


def open_set(out: str | Path, name: str, split: str) -> Source:
    """The prepared split of a set. Raises FileNotFoundError or ValueError naming the directory."""
    return Source(directory_of(out, name), split)
