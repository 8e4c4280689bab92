"""Prepared TFDS data sets whose files are on this machine: tfds:NAME[/CONFIG], or tfds: and their directory."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.readers.custom.row import FOLDER_COLUMNS, LABEL, Rows, made
from instructblip_jax.datasets.readers.custom.splits import of_field
from instructblip_jax.datasets.readers.custom.text import Unusable

PREFIX = "tfds:"
_INFO = "dataset_info.json"


def directory(source: str) -> Path:
    """Where the files are: the newest version. Raises FileNotFoundError naming where they were looked for."""
    name = source.removeprefix(PREFIX)
    base = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(base).expanduser() / name  # an absolute name stands for itself
    if (root / _INFO).is_file():
        return root
    found = [path.parent for path in (*root.glob(f"*/{_INFO}"), *root.glob(f"*/*/{_INFO}"))]
    parents = {path.parent for path in found}
    if len(parents) > 1:
        raise ValueError(f"{source}: has several configs: {', '.join(sorted(path.name for path in parents))}")
    if not found:
        raise FileNotFoundError(f"{source}: no {_INFO} in {root}/VERSION; TFDS_DATA_DIR says where prepared sets are")
    return max(found, key=lambda path: [(part.isdigit(), int(part) if part.isdigit() else 0) for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    return path.name.split(".")


class _Encoded(tfds.decode.SkipDecoding):
    """Pictures as they were stored, in sequences, too."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example


def splits(source: str) -> dict[str, str]:
    """Its splits -> ours; those of other names are left out."""
    found = {}
    for name in _builder(source).info.splits:
        try:
            found[name] = of_field(name)
        except Unusable:
            continue
    return found


def _builder(source: str) -> Any:
    where = directory(source)
    try:
        return tfds.builder_from_directory(str(where))
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise ValueError(f"{where}: is no TFDS data set that can be read: {str(error)[:160]}") from error


def rows(source: str, name: str, split: str) -> Rows:
    """The rows of a split. Columns are named as in the user's own files; the only picture is the image."""
    builder = _builder(source)
    features = builder.info.features
    pictures = [column for column, feature in features.items() if _is_image(feature)]
    if not pictures:
        raise ValueError(f"{source}: no feature of it is a picture; it has {', '.join(features)}")
    image = next((column for column in pictures if column in FOLDER_COLUMNS["image"]), pictures[0])
    try:
        data = builder.as_data_source(name, decoders=dict.fromkeys(pictures, _Encoded()))
    except NotImplementedError as error:
        raise ValueError(f"{source}: is not stored as array_record, which can be read without TensorFlow") from error
    for number, example in enumerate(data):
        where = f"{builder.data_dir}/{name}:{number}"
        held = example[image] if not isinstance(example[image], (bytes, str)) else [example[image]]
        media = tuple(Media(data=bytes(item)) for item in held)
        told = {column: _plain(features[column], value) for column, value in example.items() if column not in pictures}
        row = made(where, number, told, Path(source), split, FOLDER_COLUMNS)
        if isinstance(row, Skip):
            yield row
            continue
        fields = dict(row.fields)
        if LABEL in told and fields.get("answer") == told[LABEL] and hasattr(features[LABEL], "names"):
            fields.setdefault("candidates", list(features[LABEL].names))
        yield dataclasses.replace(row, fields=fields, media=media)
    return builder.info.splits[name].num_examples


def _is_image(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)  # of a sequence
    return isinstance(inner, tfds.features.Image)


def _plain(feature: Any, value: Any) -> Any:
    """Without NumPy's types; the name of a class instead of its number."""
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if int(value) >= 0 else None
    if isinstance(value, Mapping):
        return {name: _plain(None, item) for name, item in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(None, item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
