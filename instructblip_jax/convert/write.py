"""Tensors -> safetensors files, one or sharded; each tensor is read, or made, when its turn comes."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from instructblip_jax.convert.shards import INDEX, SINGLE, Shards

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
CODES = {dtype: code for code, dtype in DTYPES.items()}


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


def stored(shards: Shards, name: str) -> Lazy:
    """A tensor as it is stored, to be copied. Raises ValueError for a type that is not copied here."""
    kind = shards.types[name]
    if kind not in DTYPES:
        raise ValueError(f"{shards.files[name]}: {name} is of type {kind}; known are {', '.join(DTYPES)}")
    return Lazy(shards.shapes[name], DTYPES[kind], partial(shards.read, name))


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
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # so that each one is aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
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
