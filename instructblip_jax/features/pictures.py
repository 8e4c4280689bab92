"""The media of a prepared dataset's records, each identified by a digest of its encoded bytes."""

import dataclasses
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np

from instructblip_jax.data.prepared import Joined, Source, each
from instructblip_jax.data.record import key_of

KEY = np.dtype("S16")
"""The type of `record.key_of`. A single element loses its trailing zeros: use only arrays."""
BLANK = np.frombuffer(key_of(b""), KEY)
"""[1]: the key of the blank medium, which a record without media has."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The ``keys`` of a set's media, S16 [N], record after record; those of record n start at ``starts[n]``, int64
    [records + 1]."""

    keys: np.ndarray
    starts: np.ndarray

    def of(self, record: int, count: int) -> np.ndarray:
        """S16 [count], the keys of a record's media: the last one is repeated for missing ones, and `BLANK` is used if
        it has none."""
        keys = self.keys[self.starts[record] : self.starts[record + 1]][:count]
        if not len(keys):
            return np.repeat(BLANK, count)
        return keys[np.minimum(np.arange(count), len(keys) - 1)]

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N] each: the record of each medium, and its index in the record."""
        record = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        return record, np.arange(len(self.keys)) - self.starts[record]


def pictures_of(
    source: Source | Joined, directory: Path, progress: Callable[[int], None] = lambda records: None
) -> Pictures:
    """The media of a set; they are read once, and the result is kept under ``directory`` for the next time.

    ``progress`` is called with the number of records read.
    """
    paths = [directory / f"{source.identity}.{name}.npy" for name in ("keys", "starts")]
    if not all(path.is_file() for path in paths):
        keys, counts = _read(source, progress)
        directory.mkdir(parents=True, exist_ok=True)
        for path, array in zip(paths, (keys, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])), strict=True):
            save_whole(path, array)
    return Pictures(*(np.load(path, mmap_mode="r") for path in paths))


def save_whole(path: Path, array: np.ndarray) -> None:
    """Write a .npy file atomically; several processes may write the same file."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def _read(source: Source | Joined, progress: Callable[[int], None]) -> tuple[np.ndarray, list[int]]:
    keys: list[bytes] = []
    counts = []
    for own in each(source, lambda record: [key_of(medium.data) for medium in record.media]):
        progress(1)
        keys += own
        counts.append(len(own))
    return np.frombuffer(b"".join(keys), KEY), counts
