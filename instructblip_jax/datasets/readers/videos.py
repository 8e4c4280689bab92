"""Finds videos: files with one of several extensions, or folders of frames."""

from collections.abc import Sequence

from instructblip_jax.datasets.draft import VIDEO, Media
from instructblip_jax.datasets.readers.stores import Store

ENDINGS = (".mp4", ".webm", ".gif", ".avi", ".mkv")


def video(where: Store, stems: Sequence[str], folders: Sequence[str], official: str) -> Media:
    """The video of one of the names ``stems`` (no extension) in one of ``folders`` ("" is the root itself), else the
    folder of its frames. If neither exists, the ``official`` path. Raises BadRow for a path outside the roots."""
    files = [f"{folder}/{stem}" if folder else stem for folder in folders for stem in stems]
    found = where.find(official, *(file + ending for file in files for ending in ENDINGS))
    if not found.is_file():
        frames = [f"{folder}/{stem}" for folder in ("frames", *folders) if folder for stem in stems] + list(stems)
        place = where.find(official, *frames, folder=True)
        found = place if place.is_dir() else found
    return Media(found, kind=VIDEO)
