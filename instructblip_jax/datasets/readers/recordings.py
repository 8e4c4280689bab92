"""Finds recordings, and videos for the sake of their sound, and point clouds: files with one of several extensions."""

from collections.abc import Sequence

from instructblip_jax.data.record import AUDIO, POINTS
from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.stores import Store

SOUNDS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".mkv", ".webm")
CLOUDS = (".npz", ".npy", ".ply", ".obj", ".off", ".txt", ".xyz")


def _files(stems: Sequence[str], folders: Sequence[str], endings: Sequence[str]) -> list[str]:
    stems = [f"{folder}/{stem}" if folder else stem for folder in folders for stem in stems]
    return [stem + ending for stem in stems for ending in endings]


def recording(
    where: Store, stems: Sequence[str], folders: Sequence[str], start: float = 0.0, end: float | None = None
) -> Media:
    """The recording of one of the names ``stems`` (no extension) in one of ``folders`` ("" is the root itself), of
    which the part from ``start`` to ``end`` (seconds) is heard. If there is none, the path of the first name.

    Raises BadRow for a path outside the roots.
    """
    return Media(where.find(*_files(stems, folders, SOUNDS)), kind=AUDIO, start=start, end=end)


def cloud(where: Store, stems: Sequence[str], folders: Sequence[str]) -> Media:
    """The point cloud of one of the names ``stems``, as `recording` finds recordings."""
    return Media(where.find(*_files(stems, folders, CLOUDS)), kind=POINTS)
