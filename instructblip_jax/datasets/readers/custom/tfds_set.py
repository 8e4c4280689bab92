"""Reads prepared TFDS datasets on this machine: tfds:NAME[/CONFIG], or tfds: and their directory."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.readers.custom.own_row import FOLDER_COLUMNS, LABEL, OwnRows, made
from instructblip_jax.datasets.readers.custom.splits import of_field
from instructblip_jax.datasets.readers.fields import BadRow

PREFIX = "tfds:"
_INFO = "dataset_info.json"


def directory(source: str) -> Path:
    """The directory of the newest version of a dataset.

    Raises FileNotFoundError, naming the directory that was searched, if there is none, and ValueError if several
    configurations match.
    """
    name = source.removeprefix(PREFIX)
    base = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(base).expanduser() / name  # an absolute name replaces the base
    if (root / _INFO).is_file():
        return root
    found = [path.parent for path in (*root.glob(f"*/{_INFO}"), *root.glob(f"*/*/{_INFO}"))]
    parents = {path.parent for path in found}
    if len(parents) > 1:
        raise ValueError(f"{source}: has several configs: {', '.join(sorted(path.name for path in parents))}")
    if not found:
        raise FileNotFoundError(f"{source}: no {_INFO} in {root}/VERSION; set TFDS_DATA_DIR to where prepared sets are")
    return max(found, key=lambda path: [(part.isdigit(), int(part) if part.isdigit() else 0) for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    return path.name.split(".")


class _Encoded(tfds.decode.SkipDecoding):
    """Leaves images encoded, also those in sequences."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example


def splits(source: str) -> dict[str, str]:
    """TFDS split name -> "train", "validation" or "test"; splits with other names are left out."""
    found = {}
    for name in _builder(source).info.splits:
        try:
            found[name] = of_field(name)
        except BadRow:
            continue
    return found


def _builder(source: str) -> Any:
    where = directory(source)
    try:
        return tfds.builder_from_directory(str(where))
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise ValueError(f"{where}: is not a readable TFDS data set: {str(error)[:160]}") from error


def rows(source: str, name: str, split: str) -> OwnRows:
    """The rows of a split. Columns have the names of the user's own files; a single image feature is the image.

    Raises ValueError if no feature is an image or the files are not array_record.
    """
    builder = _builder(source)
    features = builder.info.features
    pictures = [column for column, feature in features.items() if _is_image(feature)]
    if not pictures:
        raise ValueError(f"{source}: none of its features is a picture; it has {', '.join(features)}")
    image = next((column for column in pictures if column in FOLDER_COLUMNS["image"]), pictures[0])
    try:
        data = builder.as_data_source(name, decoders=dict.fromkeys(pictures, _Encoded()))
    except NotImplementedError as error:
        raise ValueError(f"{source}: must be stored as array_record, which is read without TensorFlow") from error
    for number, example in enumerate(data):
        where = f"{builder.data_dir}/{name}:{number}"
        held = example[image] if not isinstance(example[image], (bytes, str)) else [example[image]]
        media = tuple(Media(data=bytes(item)) for item in held)
        values = {name: _plain(features[name], value) for name, value in example.items() if name not in pictures}
        row = made(where, number, values, Path(source), split, FOLDER_COLUMNS)
        if isinstance(row, Skip):
            yield row
            continue
        fields = dict(row.fields)
        if LABEL in values and fields.get("answer") == values[LABEL] and hasattr(features[LABEL], "names"):
            fields.setdefault("candidates", list(features[LABEL].names))
        yield dataclasses.replace(row, fields=fields, media=media)
    return builder.info.splits[name].num_examples


def _is_image(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)  # a sequence wraps its feature
    return isinstance(inner, tfds.features.Image)


def _plain(feature: Any, value: Any) -> Any:
    """The value without NumPy types; a class index becomes the class name."""
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if int(value) >= 0 else None
    if isinstance(value, Mapping):
        return {name: _plain(None, item) for name, item in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(None, item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
