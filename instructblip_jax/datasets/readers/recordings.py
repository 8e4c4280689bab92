"""Finds audio files, videos with audio tracks, and point clouds: files with one of several extensions.

A folder is listed once, and a file is found by its exact name without extension, because ids of videos are
case-sensitive.
"""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from instructblip_jax.data.record import AUDIO, POINTS
from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.stores import Store

SOUNDS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".mkv", ".webm")
CLOUDS = (".npz", ".npy", ".ply", ".obj", ".off", ".txt", ".xyz")


@lru_cache(maxsize=64)
def _listed(folder: str, endings: tuple[str, ...]) -> Mapping[str, str]:
    """Name in form NFC without extension -> name, of the files with one of ``endings``, the first of which wins."""
    found: dict[str, str] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return found
    for ending in endings:
        for name in names:
            if name.lower().endswith(ending):
                found.setdefault(unicodedata.normalize("NFC", name[: -len(ending)]), name)
    return found


def _find(where: Store, stems: Sequence[str], folders: Sequence[str], endings: tuple[str, ...]) -> Path:
    for folder in folders:
        for stem in stems:
            above, _, name = f"{folder}/{stem}".lstrip("/").rpartition("/")
            for place in where.places(above):
                if file := _listed(place, endings).get(unicodedata.normalize("NFC", name)):
                    return Path(place, file)
    return where.find(f"{folders[0]}/{stems[0]}{endings[0]}".lstrip("/"))


def recording(
    where: Store, stems: Sequence[str], folders: Sequence[str], start: float = 0.0, end: float | None = None
) -> Media:
    """The audio file with one of the names ``stems`` (no extension) in one of ``folders`` ("" is the root itself), cut
    from ``start`` to ``end`` (seconds). If there is none, the path of the first name.

    Raises BadRow for a path outside the roots.
    """
    return Media(_find(where, stems, folders, SOUNDS), kind=AUDIO, start=start, end=end)


def cloud(where: Store, stems: Sequence[str], folders: Sequence[str]) -> Media:
    """The point cloud with one of the names ``stems``, found as in `recording`."""
    return Media(_find(where, stems, folders, CLOUDS), kind=POINTS)
