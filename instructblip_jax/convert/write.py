"""Tensors -> safetensors files, single or sharded; each tensor is read, or created, only when it is written."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from instructblip_jax.convert.shards import INDEX, SINGLE, Shards, names_in
from instructblip_jax.files import write_json

MAX_SHARD_BYTES = 5 * 10**9
"""Largest size of a weight file, as in the public repositories."""
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
    """A tensor that is read, or created, only when it is written.

    ``origin``: the file from which it is copied unchanged, and its name there. ``collective``: all processes of the job
    must read it together.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    origin: tuple[Path, str] | None = None
    collective: bool = False

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


Tensor = np.ndarray | Lazy


def read(tensor: Tensor) -> np.ndarray:
    """The array of a tensor."""
    return tensor.read() if isinstance(tensor, Lazy) else tensor


def stored(shards: Shards, name: str) -> Lazy:
    """A tensor to be copied unchanged. Raises ValueError for an unsupported type."""
    kind = shards.types[name]
    if kind not in DTYPES:
        raise ValueError(f"{shards.files[name]}: {name} is of type {kind}; expected one of {', '.join(DTYPES)}")
    return Lazy(shards.shapes[name], DTYPES[kind], partial(shards.read, name), (shards.files[name], name))


@dataclasses.dataclass(frozen=True)
class Written:
    """One weight file of a new directory; ``linked`` is the file to which it is a hard link, if any."""

    file: str
    tensors: int
    bytes: int
    linked: str = ""


def whole_files(tensors: Mapping[str, Tensor]) -> dict[Path, list[str]]:
    """The files whose tensors are all among ``tensors``, unchanged and under the same names -> these names."""
    found: dict[Path, list[str]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Lazy) and tensor.origin is not None and tensor.origin[1] == name:
            found.setdefault(tensor.origin[0], []).append(name)
    return {path: names for path, names in found.items() if names_in(path) == set(names)}


@dataclasses.dataclass(frozen=True)
class Share:
    """A process's share of the files of a directory: every ``of``-th file from number ``own`` on; None means no
    file."""

    own: int | None = 0
    of: int = 1

    def has(self, file: int) -> bool:
        """True if this process writes the file with this number."""
        return file % self.of == self.own


class _Turns:
    """The collective tensors of all shares, read in turn, one of each share; all processes read all of them.

    All processes thus write at the same time, and each has its own tensor and briefly another one in memory.
    """

    def __init__(self, groups: Sequence[Mapping[str, Tensor]], share: Share):
        shares: list[list[Lazy]] = [[] for _ in range(share.of)]
        for n, group in enumerate(groups):
            tensors = (group[name] for name in _order(group))
            shares[n % share.of] += [x for x in tensors if isinstance(x, Lazy) and x.collective]
        self._own, self._rounds = share.own, zip_longest(*shares)

    def read(self, tensor: Tensor) -> np.ndarray:
        """The next tensor of this share."""
        return self._round(next(self._rounds)) if isinstance(tensor, Lazy) and tensor.collective else read(tensor)

    def end(self) -> None:
        """Keep reading until the other processes have all of their tensors, even after an error here."""
        error = None
        for tensors in self._rounds:
            try:
                self._round(tensors)
            except Exception as caught:
                error = error or caught
        if error:
            raise error

    def _round(self, tensors: tuple[Lazy | None, ...]) -> Any:
        mine = error = None
        for n, tensor in enumerate(tensors):
            try:
                array = None if tensor is None else tensor.read()
            except Exception as caught:  # the others continue with the next one
                array, error = None, error or caught
            mine = array if n == self._own else mine
        if error:
            raise error
        return mine


def write_shards(
    directory: Path,
    tensors: Iterable[tuple[str, Tensor]],
    max_bytes: int,
    *,
    link: bool = False,
    share: Share = Share(),
    stem: str = Path(SINGLE).stem,
) -> list[Written]:
    """Write tensors in their order, a new file whenever ``max_bytes`` are reached, and an index if there are several.

    One lazy tensor is in memory at a time, for any file size. With ``link`` the `whole_files` come first, as hard links
    of any size; they are copied if the file system cannot link them. In a job of several processes all of them call it,
    each with its ``share`` of the files, and get the list of all files. ``stem``: the prefix of their names.
    """
    if share.own is not None:
        directory.mkdir(parents=True, exist_ok=True)
    rest = dict(tensors)
    sources = whole_files(rest) if link else {}
    groups: list[dict[str, Tensor]] = [{name: rest.pop(name) for name in names} for names in sources.values()]
    whole = len(groups)
    for name, tensor in rest.items():
        if len(groups) == whole or sum(x.nbytes for x in groups[-1].values()) + tensor.nbytes > max_bytes:
            groups.append({})
        groups[-1][name] = tensor
    count = len(groups)
    numbers = [""] if count == 1 else [f"-{n:05d}-of-{count:05d}" for n in range(1, count + 1)]
    names = [f"{stem}{number}.safetensors" for number in numbers]
    total = sum(x.nbytes for group in groups for x in group.values())
    linked = [str(path) for path in sources] + [""] * (count - whole)
    turns, own = _Turns(groups, share), [n for n in range(count) if share.has(n)]
    size = sum(x.nbytes for n in own for x in groups[n].values())
    shown = None if share.own == 0 else True  # on a terminal, by the first process
    try:
        with tqdm(total=size, desc="write", unit="B", unit_scale=True, dynamic_ncols=True, disable=shown) as bar:
            for n in own:
                if linked[n] and _link(linked[n], directory / names[n]):
                    bar.update(sum(x.nbytes for x in groups[n].values()))
                    continue
                linked[n] = ""
                _write(directory / names[n], groups[n], turns, bar)
    finally:
        turns.end()  # even after an error, of which the others are unaware
    if count > 1 and share.own == 0:
        weight_map = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(directory / INDEX, index)
    sizes = [sum(x.nbytes for x in group.values()) for group in groups]
    return [Written(*row) for row in zip(names, map(len, groups), sizes, linked, strict=True)]


def _link(source: str, path: Path) -> bool:
    """Make ``path`` a hard link to the file ``source``; False if the file system or its permissions refuse it."""
    try:
        os.link(os.path.realpath(source), path)
    except OSError:
        return False
    return True


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in file order: wide types first, so that each tensor is aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def _write(path: Path, tensors: Mapping[str, Tensor], turns: _Turns, bar: tqdm) -> None:
    """One safetensors file: size of the header, header, data. The library's own writer needs all data in memory."""
    order = _order(tensors)
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
            array = turns.read(tensor)
            if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(f"{name} became {array.dtype} {array.shape}, not {tensor.dtype} {tensor.shape}")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            bar.update(array.nbytes)


def as_table(written: Sequence[Written]) -> str:
    """One line per file, for people."""
    return "\n".join(
        f"{x.file:<36} {x.tensors:>6,} tensors {x.bytes / 1e9:>10.3f} GB{f'  = {x.linked}' if x.linked else ''}"
        for x in written
    )


def as_dict(written: Sequence[Written]) -> dict[str, Any]:
    """The same for programs."""
    files = {
        x.file: {"tensors": x.tensors, "bytes": x.bytes} | ({"linked": x.linked} if x.linked else {}) for x in written
    }
    return {"files": files, "tensors": sum(x.tensors for x in written), "bytes": sum(x.bytes for x in written)}
