"""safetensors files, one or sharded: what they hold, tensor by tensor."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from instructblip_jax.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
"""Size of a file of the public repositories, at most."""
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""The format's name of a type -> NumPy's."""


@dataclasses.dataclass(frozen=True)
class Lazy:
    """A tensor to be written that is read, or made, when its turn comes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


Tensor = np.ndarray | Lazy


def read(tensor: Tensor) -> np.ndarray:
    """The array, read if it was not yet."""
    return tensor.read() if isinstance(tensor, Lazy) else tensor


@dataclasses.dataclass(frozen=True)
class Shards:
    """Where each tensor of a checkpoint lies, its shape and its type. Nothing is read until asked for."""

    directory: Path
    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]

    def read(self, name: str) -> np.ndarray:
        """One tensor. The file is mapped for this read only, so that its pages do not add up in memory."""
        with _open(self.files[name]) as file:
            return file.get_tensor(name)

    def lazy(self, name: str) -> Lazy:
        """One tensor as it is stored, to be copied. Raises ValueError for a type that is not copied here."""
        if self.types[name] not in DTYPES:
            raise ValueError(f"{self.files[name]}: {name} is of type {self.types[name]}; known are {', '.join(DTYPES)}")
        return Lazy(self.shapes[name], DTYPES[self.types[name]], partial(self.read, name))


def _open(path: Path):
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: truncated, or not a safetensors file ({error}); fetch it again") from error


def open_shards(directory: Path) -> Shards:
    """The tensors of a model directory. Raises FileNotFoundError or ValueError naming the file."""
    index = directory / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{index}: has no weight_map")
        names = sorted(set(weight_map.values()))
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"{index}: weight_map names {name!r}, which is not a file of this directory")
    else:
        names = [SINGLE]
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    for path in (directory / name for name in names):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; weights are read from safetensors files only, fetch them")
        with _open(path) as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                files[key] = path
                header = file.get_slice(key)
                shapes[key], types[key] = tuple(header.get_shape()), header.get_dtype()
    return Shards(directory, files, shapes, types)


@dataclasses.dataclass(frozen=True)
class Written:
    """One weight file that was written."""

    file: str
    tensors: int
    bytes: int


def write_shards(directory: Path, tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> list[Written]:
    """Write tensors in their order, a new file whenever ``max_bytes`` are full, and an index if there are several.

    One lazy tensor is in memory at a time, whatever the size of a file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    groups: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors:
        if groups[-1] and sum(x.nbytes for x in groups[-1].values()) + tensor.nbytes > max_bytes:
            groups.append({})
        groups[-1][name] = tensor
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    total = sum(x.nbytes for group in groups for x in group.values())
    with tqdm(total=total, desc="write", unit="B", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
        for name, group in zip(names, groups, strict=True):
            _write(directory / name, group, bar)
    if count > 1:
        weight_map = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    sizes = [sum(x.nbytes for x in group.values()) for group in groups]
    return [Written(name, len(group), size) for name, group, size in zip(names, groups, sizes, strict=True)]


def _write(path: Path, tensors: Mapping[str, Tensor], bar: tqdm) -> None:
    """One safetensors file: size of the header, header, data. The library's own writer wants all data at once."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # so that each one is aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        code = codes[tensor.dtype]
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensors[name]
            array = read(tensor)
            if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(f"{name} became {array.dtype} {array.shape}, not {tensor.dtype} {tensor.shape}")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            bar.update(array.nbytes)


def as_table(written: Sequence[Written]) -> str:
    """One line a file, for people."""
    return "\n".join(f"{x.file:<36} {x.tensors:>6,} tensors {x.bytes / 1e9:>10.3f} GB" for x in written)


def as_dict(written: Sequence[Written]) -> dict[str, Any]:
    """The same for programs."""
    files = {x.file: {"tensors": x.tensors, "bytes": x.bytes} for x in written}
    return {"files": files, "tensors": sum(x.tensors for x in written), "bytes": sum(x.bytes for x in written)}
