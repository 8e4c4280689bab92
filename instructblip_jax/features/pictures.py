"""Which pictures the records of a prepared set hold, each named by a digest of its encoded bytes."""

import dataclasses
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np

from instructblip_jax.data.prepared import Joined, Source, each, update_by_ends

KEY = np.dtype("S16")
"""Of pictures. Elements lose their trailing zeros when they are taken out one by one: arrays only."""


def key_of(picture: bytes) -> bytes:
    """16 bytes: the same for the same encoded picture, whatever set it is in."""
    return hashlib.blake2b(picture, digest_size=KEY.itemsize).digest()


BLANK = np.frombuffer(key_of(b""), KEY)
"""[1]: stands for the processor's mean colour, which a record without a picture shows."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Of a set: the ``keys`` of its pictures, S16 [N], record after record; those of record n begin at ``starts[n]``,
    int64 [records + 1]."""

    keys: np.ndarray
    starts: np.ndarray

    def of(self, record: int, frames: int) -> np.ndarray:
        """S16 [frames], as `loader.pixels_of` shows them: the last stands for missing ones, `BLANK` for none at all."""
        keys = self.keys[self.starts[record] : self.starts[record + 1]][:frames]
        if not len(keys):
            return np.repeat(BLANK, frames)
        return keys[np.minimum(np.arange(frames), len(keys) - 1)]

    def shown(self, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first ``frames`` pictures of all records: their keys, records and numbers in the record, [M] each."""
        record = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        number = np.arange(len(self.keys)) - self.starts[record]
        first = number < frames
        return np.asarray(self.keys[first]), record[first], number[first]


def pictures_of(
    source: Source | Joined, directory: Path, progress: Callable[[int], None] = lambda records: None
) -> Pictures:
    """The pictures of a set; they are read once, and what was found is kept under ``directory`` for the next time.

    ``progress`` is told the records that were read.
    """
    paths = [directory / f"{identity(source)}.{name}.npy" for name in ("keys", "starts")]
    if not all(path.is_file() for path in paths):
        keys, counts = _read(source, progress)
        directory.mkdir(parents=True, exist_ok=True)
        for path, array in zip(paths, (keys, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])), strict=True):
            save_whole(path, array)
    return Pictures(*(np.load(path, mmap_mode="r") for path in paths))


def save_whole(path: Path, array: np.ndarray) -> None:
    """Write a .npy file whole or not at all; several processes may write the same."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def identity(source: Source | Joined) -> str:
    """Which prepared set this is, by its files: names, sizes, both ends."""
    digest = hashlib.blake2b(digest_size=16)
    for part in source.parts if isinstance(source, Joined) else (source,):
        digest.update(f"{part.directory.parent.name} {part.split}\n".encode())
        for path in sorted(path for path in part.directory.iterdir() if path.is_file()):
            update_by_ends(digest, path)
    return digest.hexdigest()


def _read(source: Source | Joined, progress: Callable[[int], None]) -> tuple[np.ndarray, list[int]]:
    keys: list[bytes] = []
    counts = []
    for own in each(source, lambda record: [key_of(image) for image in record.images]):
        progress(1)
        keys += own
        counts.append(len(own))
    return np.frombuffer(b"".join(keys), KEY), counts
