"""Read torch.save files, in which authors published towers, without torch and without running any code from them.

Such a file is a zip archive with a pickle, in which tensors refer to parts of other members. The pickle is read by a
restricted unpickler that knows only tensors, containers and numbers; anything else becomes an inert object.
"""

import dataclasses
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
PICKLE, DATA = "data.pkl", "data/"
"""Name of the pickle in an archive, and name prefix of its data, both after the archive's own name."""
LARGEST_PICKLE = 2**26
"""Maximum size of a pickle in bytes; those of public files have some hundred kilobytes."""


class _Nothing:
    """Any object that is neither tensor nor container: it accepts every operation of a pickle, and stores nothing."""

    def __init__(self, *args: Any):
        del args

    def _ignore(self, *args: Any) -> None:
        del args

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _Table(dict):
    """An OrderedDict, whose attributes are not kept."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Storage(NamedTuple):
    """``length`` numbers in the archive's member ``key``; ``kind`` is one of `STORAGES`."""

    kind: str
    key: str
    length: int


class _View(NamedTuple):
    """A tensor: numbers of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def is_whole(self, members: Mapping[str, int]) -> bool:
        """True if it is within its storage, and the storage within its member, whose size in bytes is in
        ``members``."""
        numbers = (self.offset, *self.shape, *self.strides, self.storage.length)
        if len(self.shape) != len(self.strides) or not all(type(n) is int and n >= 0 for n in numbers):
            return False
        count = math.prod(self.shape)
        steps = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) if count else -1
        held = members.get(self.storage.key, -1) >= self.storage.length * STORAGES[self.storage.kind].itemsize
        return held and count <= self.storage.length and self.offset + steps < self.storage.length


def _view(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Any:
    known = isinstance(storage, _Storage) and storage.kind in STORAGES
    return _View(storage, offset, tuple(shape), tuple(strides)) if known else _Nothing()


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Table,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
"""Module and name of everything that a pickle can call, apart from `_Nothing`."""


class _Machine(pickle.Unpickler):
    """An unpickler that finds only the objects above."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler.find_class`; the type of a storage is its name."""
        return name if module == "torch" and name in STORAGES else KNOWN.get((module, name), _Nothing)

    def persistent_load(self, pid: Any) -> Any:
        """See `pickle.Unpickler.persistent_load`: a storage."""
        _, kind, key, _, length = pid
        return _Storage(kind, key, length) if isinstance(kind, str) else _Nothing()


def _unpickled(content: bytes) -> Any:
    """The object of a pickle. Raises an error of any type for one that is wrong."""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(content):
            raise ValueError("an invalid index among the pickle's objects")  # all before it take memory
    return _Machine(io.BytesIO(content)).load()


@dataclasses.dataclass(frozen=True)
class PublicFile:
    """An open file of torch.save.

    Attributes:
      folder: prefix of the names of the archive's members.
      members: key of a storage -> its bytes.
      content: the dict that was saved.
    """

    path: Path
    folder: str
    members: Mapping[str, int]
    content: Mapping[str, Any]

    def tensors(self, key: str) -> dict[str, Tensor]:
        """The tensors under ``key`` by name, read when they are needed. Raises ValueError naming the file."""
        found = self.content.get(key)
        if not isinstance(found, dict) or not all(
            isinstance(name, str) and isinstance(x, _View) for name, x in found.items()
        ):
            raise ValueError(f'{self.path}: has no tensors under "{key}", where the public file has them')
        broken = [name for name, view in found.items() if not view.is_whole(self.members)]
        if broken:
            raise ValueError(f"{self.path}: {broken[0]} is outside the stored data; fetch the file again")
        return {name: self._lazy(view) for name, view in found.items()}

    def _lazy(self, view: _View) -> Lazy:
        dtype = STORAGES[view.storage.kind]

        def read() -> np.ndarray:
            member = f"{self.folder}{DATA}{view.storage.key}"
            try:
                with zipfile.ZipFile(self.path) as archive:
                    flat = np.frombuffer(archive.read(member), dtype, view.storage.length)
            except Exception as error:  # as in `open_file`
                raise ValueError(f"{self.path}: {member} is damaged ({error}); fetch the file again") from error
            steps = [dtype.itemsize * step for step in view.strides]
            placed = np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, steps, writeable=False)
            return np.ascontiguousarray(placed).reshape(view.shape)

        return Lazy(view.shape, dtype, read)


def open_file(path: Path) -> PublicFile:
    """Open a file of torch.save. Raises FileNotFoundError or ValueError naming it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            info = next(member for member in archive.infolist() if member.filename.endswith(f"/{PICKLE}"))
            if info.file_size > LARGEST_PICKLE:
                raise ValueError(f"its pickle has {info.file_size} bytes")
            content, folder = _unpickled(archive.read(info)), info.filename.removesuffix(PICKLE)
            members = {
                member.filename.removeprefix(f"{folder}{DATA}"): member.file_size
                for member in archive.infolist()
                if member.compress_type == zipfile.ZIP_STORED  # as torch writes them: no larger than the file
            }
    except Exception as error:  # archives and pickles can be broken in many ways
        raise ValueError(
            f"{path}: truncated, or not a file of torch.save since torch 1.6 ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no dict")
    return PublicFile(path, folder, members, content)


def directory_or_file(
    path: Path, of_file: Callable[[PublicFile], tuple[dict[str, Any], dict[str, Tensor]]]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A section of a config.json, and tensors by their public names: of a file by ``of_file``, or of a directory whose
    config.json is that section. Raises FileNotFoundError or ValueError naming the file."""
    if not path.is_dir():
        return of_file(open_file(path))
    shards = open_shards(path)
    return read_json(path / "config.json"), {name: stored(shards, name) for name in shards.shapes}
