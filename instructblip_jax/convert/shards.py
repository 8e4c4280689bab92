"""safetensors files, one or sharded: their headers, and their tensors one by one."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from instructblip_jax.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Shards:
    """The tensors of a checkpoint: name -> file, shape, and type by safetensors' name ("F32", "BF16" ...).

    No tensor is read before `read`.
    """

    directory: Path
    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]

    def read(self, name: str) -> np.ndarray:
        """One tensor. The file is mapped only for this read, so that its pages do not accumulate in memory."""
        with _open(self.files[name]) as file:
            return file.get_tensor(name)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: truncated, or not a safetensors file ({error}); fetch it again") from error


def names_in(path: Path) -> set[str]:
    """The names of all tensors in a file."""
    with _open(path) as file:
        return set(file.keys())


def weight_files(directory: Path) -> list[Path]:
    """The weight files of a model directory, existing or not: ``model.safetensors`` if it exists, as in transformers,
    otherwise the files that the index names. Raises ValueError naming an index that cannot be read."""
    index = directory / INDEX
    if (directory / SINGLE).is_file() or not index.is_file():
        return [directory / SINGLE]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: has no weight_map")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index}: weight_map names {name!r} for {tensor}, which is not a file of this directory")
    return [directory / name for name in sorted(set(weight_map.values()))]


def open_shards(directory: Path) -> Shards:
    """The tensors of a model directory. Raises FileNotFoundError or ValueError naming the file.

    Warns if there are both an index and ``model.safetensors``: one of them is left over from another save.
    """
    paths = weight_files(directory)
    if paths == [directory / SINGLE] and (directory / INDEX).is_file():
        warnings.warn(
            f"{directory}: the weights are those of {SINGLE}, as in transformers; {INDEX} and its files are left over "
            "from another save and are not read: remove them",
            stacklevel=2,
        )
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(_absent(path))
        with _open(path) as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                view = file.get_slice(key)
                files[key], shapes[key], types[key] = path, tuple(view.get_shape()), view.get_dtype()
    return Shards(directory, files, shapes, types)


def _absent(path: Path) -> str:
    """The reason why a weight file is missing, and the remedy."""
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in path.parent.glob(pattern))
    if pickles and not list(path.parent.glob("*.safetensors")):
        return (
            f"{path}: no such file, only {pickles[0]}; pickled weights can run anybody's code and are not read: fetch "
            "the safetensors files of the same repository, or, if it has none, write the tensors of this file anew: "
            f"instructblip convert --original {path.parent / pickles[0]} --out DIR"
        )
    named = f", which {path.parent / INDEX} names" if (path.parent / INDEX).is_file() else ""
    return f"{path}: no such file{named}; weights are read from safetensors files only, fetch them"
