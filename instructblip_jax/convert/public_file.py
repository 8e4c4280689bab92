"""Towers as their authors published them, a file of torch.save: read without torch, and without running anything.

Such a file is a zip archive of a pickle, in which tensors are descriptions of parts of other members. The pickle is
read by a machine that knows tensors, containers and numbers; anything else becomes an object without meaning.
"""

import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.files import read_json

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
"""torch's names of the types of stored numbers."""
LARGEST_PICKLE = 2**26
"""Bytes of a pickle that is read; those of public files have some hundred kilobytes."""

Read = Callable[[Path, Mapping[str, Any]], tuple[dict[str, Any], dict[str, Tensor]]]
"""(File, its content) -> a section of a config.json, and tensors by their public names."""


class _Nothing:
    """Any object that is neither tensor nor container: it takes whatever a pickle does to it, and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, item: Any) -> None:
        """Does nothing."""

    def extend(self, items: Any) -> None:
        """Does nothing."""

    def add(self, item: Any) -> None:
        """Does nothing."""

    def update(self, items: Any) -> None:
        """Does nothing."""


class _Table(dict):
    """An OrderedDict, whose attributes are not kept."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Storage(NamedTuple):
    """A run of numbers: ``length`` of them in the archive's member of this ``key``."""

    key: str
    dtype: np.dtype
    length: int


class _Machine(pickle.Unpickler):
    """Unpickler without access to anything but the functions below."""

    def __init__(self, file: BinaryIO, tensor: Callable[..., Lazy]):
        super().__init__(file)
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _Table,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler.find_class`."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return self._known.get((module, name), _Nothing)

    def persistent_load(self, pid: Any) -> Any:
        """See `pickle.Unpickler.persistent_load`: a storage."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(key, str) or not isinstance(count, int):
            raise pickle.UnpicklingError("a storage without a type, a key or a length")
        return _Storage(key, dtype, count) if isinstance(dtype, np.dtype) else _Nothing()


def read_file(path: Path) -> dict[str, Any]:
    """The dict that a file of torch.save holds; its tensors are read when they are needed, as stored.

    Raises FileNotFoundError, or ValueError naming the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            info = archive.getinfo(names[0])
            if info.file_size > LARGEST_PICKLE:
                raise ValueError(f"a pickle of {info.file_size} bytes")
            folder = names[0].removesuffix("data.pkl")
            members = {
                member.filename.removeprefix(f"{folder}data/"): member.file_size
                for member in archive.infolist()
                if member.filename.startswith(f"{folder}data/") and member.compress_type == zipfile.ZIP_STORED
            }
            with archive.open(info) as file:
                content = _Machine(file, partial(_tensor, path, folder, members)).load()  # type: ignore[arg-type]
    except Exception as error:  # archives and pickles can be wrong in many ways
        raise ValueError(
            f"{path}: truncated, or not a file of torch.save since torch 1.6 ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no dict")
    return content


def _tensor(
    path: Path,
    folder: str,
    members: Mapping[str, int],
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> Any:
    """A tensor of an archive, checked against the size of its member. Raises ValueError where it does not lie in it."""
    if isinstance(storage, _Nothing):
        return storage
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of shape {shape} with strides {strides}")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else -1
    stored_bytes = storage.length * storage.dtype.itemsize
    if last >= storage.length or members.get(storage.key, -1) < stored_bytes or count > storage.length:
        raise ValueError(f"a tensor of shape {shape} that its storage {storage.key} does not hold")

    def read() -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(f"{folder}data/{storage.key}")
        flat = np.frombuffer(content, storage.dtype, storage.length)
        size = storage.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [size * step for step in strides], writeable=False)
        return np.ascontiguousarray(view).reshape(shape)

    return Lazy(shape, storage.dtype, read)


def tensors_in(path: Path, content: Mapping[str, Any], key: str) -> dict[str, Tensor]:
    """The tensors by name that a file's content has under ``key``. Raises ValueError naming both."""
    found = content.get(key)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Lazy) for name, tensor in found.items()
    ):
        raise ValueError(f'{path}: has no tensors under "{key}", where its authors keep them')
    return dict(found)


def directory_or_file(path: Path, of_file: Read) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A section of a config.json and the tensors of a file, by ``of_file``, or of a directory whose config.json is that
    section. Raises FileNotFoundError or ValueError naming the file."""
    if not path.is_dir():
        return of_file(path, read_file(path))
    shards = open_shards(path)
    return read_json(path / "config.json"), {name: stored(shards, name) for name in shards.shapes}
