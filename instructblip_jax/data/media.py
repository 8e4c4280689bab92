"""A `Media` -> encoded pictures that are known to decode."""

import os
import re
from collections import OrderedDict
from pathlib import Path

from instructblip_jax.data.draft import Media
from instructblip_jax.data.video import UnusableMediaError, moving, sample
from instructblip_jax.processors.image import FORMATS, MAX_BYTES, UnusableImageError, open_image

FRAMES = 4
MOST_FILES = 200_000
"""Of a folder of frames; more are refused."""
_SUFFIXES = {".jpg", ".jpeg", *(f".{name.lower()}" for name in FORMATS)}
MISSING = "missing picture"


def load(media: Media, frames: int = FRAMES) -> tuple[bytes, ...]:
    """The picture, as its file holds it, or of a video so many ``frames``, each decoded once to see that it can be.

    Frames are taken uniformly: the floor(i * len / frames)-th; of fewer, the last is repeated. Raises
    UnusableMediaError.
    """
    if not media.video:
        data = _whole(media)
        _verify(data, _name(media))
        return (data,)
    if media.path is not None and media.data is None and media.path.is_dir():
        return _folder(media.path, frames)
    return moving(media, frames)


class Recent:
    """`load`, remembering the last few: rows that ask about the same picture or video mostly follow one another."""

    def __init__(self, frames: int = FRAMES, most: int = 16, size: int = 64 << 20):
        self._frames, self._most, self._size = frames, most, size
        self._held: OrderedDict[Media, tuple[bytes, ...]] = OrderedDict()

    def __call__(self, media: Media) -> tuple[bytes, ...]:
        """As `load`; pictures of more than ``size`` bytes together are not kept."""
        if media not in self._held:
            pictures = load(media, self._frames)
            if media.data is not None or sum(map(len, pictures)) > self._size // self._most:
                return pictures
            self._held[media] = pictures
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return self._held[media]


def _name(media: Media) -> str:
    return str(media.path) if media.data is None else "picture in the row"


def _whole(media: Media) -> bytes:
    name = _name(media)
    if media.data is not None:
        data = media.data
        if len(data) > MAX_BYTES:
            raise UnusableMediaError("too large", f"{name}: {len(data):,} bytes")
        return data
    if media.path is None:
        raise UnusableMediaError(MISSING, "the row names none")
    try:
        with media.path.open("rb") as file:
            size = media.size or os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise UnusableMediaError("too large", f"{name}: {size:,} bytes")
            file.seek(media.offset)
            data = file.read(size)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise UnusableMediaError(MISSING, name) from error
    except OSError as error:
        raise UnusableMediaError("unreadable file", f"{name}: {error.strerror}") from error
    if len(data) < media.size:
        raise UnusableMediaError("truncated archive", f"{name}: ends before byte {media.offset + media.size:,}")
    return data


def _verify(data: bytes, name: str) -> None:
    if not data:
        raise UnusableMediaError("empty file", name)
    try:
        open_image(data, name)
    except UnusableImageError as error:
        raise UnusableMediaError(error.reason, str(error)) from error


def _folder(folder: Path, frames: int) -> tuple[bytes, ...]:
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if Path(entry.name).suffix.lower() in _SUFFIXES and not entry.name.startswith("."):
                    names.append(entry.name)
                if len(names) > MOST_FILES:
                    raise UnusableMediaError("too large", f"{folder}: more than {MOST_FILES:,} frames")
    except OSError as error:
        raise UnusableMediaError("unreadable file", f"{folder}: {error.strerror}") from error
    if not names:
        raise UnusableMediaError("no frames", f"{folder}: holds no picture")
    names.sort(key=_natural)
    pictures = {number: _whole(Media(folder / names[number])) for number in set(sample(len(names), frames))}
    for number, data in pictures.items():
        _verify(data, str(folder / names[number]))
    return tuple(pictures[number] for number in sample(len(names), frames))


def _natural(name: str) -> tuple[list[int], str]:
    """frame_2 before frame_10."""
    return [int(digits) for digits in re.findall(r"\d+", name)], name
