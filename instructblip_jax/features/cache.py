"""The features of one tower, on disk: ArrayRecord shards of (key, features), and an index over them.

A shard is finished when it has a file of keys next to it; other files are left over from a killed run, and are
rewritten. The index, sorted keys -> (shard, row), is built from the keys of all finished shards and memory-mapped.
"""

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from instructblip_jax.data.record import Kinds
from instructblip_jax.features.pictures import BLANK, KEY, Pictures, save_whole
from instructblip_jax.processors.base import BaseProcessor

RANDOM = "readahead_buffer_size:0,max_parallelism:0"
WRITTEN = "group_size:1,uncompressed"  # so that a record can be read alone; noise does not compress


class FeatureCache:
    """The features in ``directory``, each of this ``shape`` and ``dtype``, by the key of their medium."""

    def __init__(self, directory: Path, shape: tuple[int, ...], dtype: np.dtype):
        self.directory, self.shape, self.dtype = directory, shape, np.dtype(dtype)
        self.bytes = int(np.prod(shape)) * self.dtype.itemsize
        """Size of the features of one medium."""
        self.shards = _finished(directory)
        self.keys, self.places = self._index()
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """S16 [n] -> bool [n], True for cached keys."""
        if not len(self.keys):
            return np.zeros(len(keys), bool)
        at = np.searchsorted(self.keys, keys)
        return self.keys[np.minimum(at, len(self.keys) - 1)] == keys

    def read(self, keys: np.ndarray) -> np.ndarray:
        """S16 [...] -> features [..., *shape]. Raises KeyError for a key that is not cached, ValueError for damage."""
        flat = np.ravel(keys)
        if not self.holds(flat).all():
            raise KeyError(f"{self.directory}: a picture of this batch has no features; was the set prepared again?")
        out = np.empty((len(flat), *self.shape), self.dtype)
        for n, (shard, row) in enumerate(self.places[np.searchsorted(self.keys, flat)].tolist()):
            record = self._record(shard, row)
            if record[: KEY.itemsize] != flat[n : n + 1].tobytes() or len(record) != KEY.itemsize + self.bytes:
                raise ValueError(f"{_path(self.directory, shard)}: row {row} is not what the index says; {_AGAIN}")
            out[n] = np.frombuffer(record, self.dtype, offset=KEY.itemsize).reshape(self.shape)
        return out.reshape(*keys.shape, *self.shape)

    def _record(self, shard: int, row: int) -> bytes:
        path = _path(self.directory, shard)
        try:
            with self._lock:
                if shard not in self._readers:
                    self._readers[shard] = ArrayRecordReader(str(path), RANDOM, file_reader_buffer_size=1 << 15)
                reader = self._readers[shard]
            return reader.read([row])[0]
        except (RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: row {row} cannot be read ({error}); {_AGAIN}") from error

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys S16 [N], and for each (shard, row) int32 [N, 2]."""
        if not self.shards:
            return np.empty(0, KEY), np.empty((0, 2), np.int32)
        name = hashlib.blake2b(repr(self.shards).encode(), digest_size=8).hexdigest()
        paths = [self.directory / f"index-{name}.{what}.npy" for what in ("keys", "places")]
        if not all(path.is_file() for path in paths):
            parts = [np.load(_keys_path(self.directory, shard)) for shard in self.shards]
            keys = np.concatenate(parts)
            shards = np.repeat(np.array(self.shards, np.int32), [len(part) for part in parts])
            rows = np.concatenate([np.arange(len(part), dtype=np.int32) for part in parts])
            order = np.argsort(keys, kind="stable")
            save_whole(paths[0], keys[order])
            save_whole(paths[1], np.stack([shards, rows], axis=1)[order])
        keys, places = (np.load(path, mmap_mode="r") for path in paths)
        return keys, places


_AGAIN = "remove the file, and its features are computed again"


def _path(directory: Path, shard: int) -> Path:
    return directory / f"features-{shard:06d}.array_record"


def _keys_path(directory: Path, shard: int) -> Path:
    return directory / f"features-{shard:06d}.keys.npy"


def _finished(directory: Path) -> list[int]:
    numbers = sorted(int(path.name.split(".")[0].split("-")[1]) for path in directory.glob("features-*.keys.npy"))
    return [number for number in numbers if _path(directory, number).is_file()]


class FeatureWriter:
    """Writes features into ``directory`` in the given order, ``rows`` per shard."""

    def __init__(self, directory: Path, rows: int):
        self.directory, self.rows = directory, rows
        self.number = max(_finished(directory), default=-1)
        self.keys: list[bytes] = []
        self.writer: ArrayRecordWriter | None = None
        for path in directory.glob("*.part"):
            path.unlink()

    def add(self, keys: np.ndarray, features: np.ndarray) -> None:
        """S16 [n] and their features [n, ...]. Raises OSError for a full disk."""
        try:
            for n, row in enumerate(features):
                if self.writer is None:
                    self.number += 1
                    self.writer = ArrayRecordWriter(f"{_path(self.directory, self.number)}.part", WRITTEN)
                key = keys[n : n + 1].tobytes()
                self.writer.write(key + row.tobytes())
                self.keys.append(key)
                if len(self.keys) == self.rows:
                    self.close()
        except RuntimeError as error:
            raise OSError(f"{_path(self.directory, self.number)}: {error}") from error

    def close(self) -> None:
        """Finish the shard."""
        if self.writer is None:
            return
        self.writer.close()
        path = _path(self.directory, self.number)
        os.replace(f"{path}.part", path)
        save_whole(_keys_path(self.directory, self.number), np.frombuffer(b"".join(self.keys), KEY))
        self.writer, self.keys = None, []


class Features:
    """The loader's source of cached features, for the records of the sets in ``pictures``.

    ``caches``: by media key of the ``processor`` (`BaseProcessor.feature_key`). With ``blank`` the features of the
    blank medium are used for all.
    """

    def __init__(
        self,
        caches: Mapping[str, FeatureCache],
        pictures: Mapping[str, Pictures],
        processor: BaseProcessor,
        blank: bool = False,
    ):
        self.caches, self.pictures, self.processor, self.blank = caches, pictures, processor, blank

    def __call__(self, places: Sequence[tuple[str, int]], kinds: Kinds) -> dict[str, np.ndarray]:
        """(set, record) of B rows with these kinds -> {media key: their features, as from `Features.features`}."""
        keys = np.stack([self._keys(name, record, len(kinds)) for name, record in places])
        found = [self.caches[self.processor.feature_key(kind)].read(keys[:, n]) for n, kind in enumerate(kinds)]
        return self.processor.featured(kinds, found)

    def _keys(self, name: str, record: int, count: int) -> np.ndarray:
        return np.repeat(BLANK, count) if self.blank else self.pictures[name].of(record, count)
