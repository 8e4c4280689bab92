"""A `Media` -> encoded bytes; images and frames have been checked by decoding."""

import contextlib
import io
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from instructblip_jax.data.record import AUDIO, IMAGE, POINTS
from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.media import audio, points
from instructblip_jax.datasets.media.animation import animated
from instructblip_jax.datasets.media.frames import sample
from instructblip_jax.datasets.media.video import decoded
from instructblip_jax.processors.containers import container_of
from instructblip_jax.processors.content import HEAD, UnusableMediaError
from instructblip_jax.processors.image import FORMATS, MAX_BYTES, UnusableImageError, open_image
from instructblip_jax.processors.video import NO_FRAMES

FRAMES = 4
MOST_FILES = 200_000
"""Maximum number of files in a folder of frames; a larger folder is refused."""
_SUFFIXES = {".jpg", ".jpeg", *(f".{name.lower()}" for name in FORMATS)}


def load(media: Media, frames: int = FRAMES) -> tuple[bytes, ...]:
    """The unchanged bytes of an image file, ``frames`` encoded frames of a video, or the bytes of an audio clip or
    point cloud from `audio.stored` and `points.stored`.

    Images and frames are decoded once as a check. Frames are sampled uniformly: the floor(i * len / frames)-th ones; if
    there are fewer, the last one is repeated. Raises UnusableMediaError.
    """
    if media.kind == AUDIO:
        with _file(media) as file:
            return (audio.stored(file, media, _name(media)),)
    if media.kind == POINTS:
        return (points.stored(_bytes(media), _name(media)),)
    if not media.video:
        return (read(media)[0],)
    if media.path is not None and media.data is None and media.path.is_dir():
        return _folder(media.path, frames)
    return _moving(media, frames)


def picture(media: Media) -> Image.Image:
    """A decoded image: upright, RGB. Raises UnusableMediaError, as `load` does."""
    return read(media)[1]


def read(media: Media) -> tuple[bytes, Image.Image]:
    """The bytes of an image, and the image. Raises UnusableMediaError, as `load` does."""
    data = _bytes(media)
    return data, _decoded(data, _name(media))


class Recent:
    """`load` with a small cache, because rows about the same medium are mostly adjacent.

    Args:
      frames: frames per video.
      most: maximum number of cached entries.
      size: maximum total size of cached media in bytes.
    """

    def __init__(self, frames: int = FRAMES, most: int = 16, size: int = 64 << 20):
        self._frames, self._most, self._size = frames, most, size
        self._held: OrderedDict[Media, tuple[bytes, ...]] = OrderedDict()

    def __call__(self, media: Media) -> tuple[bytes, ...]:
        """Like `load`. Entries larger than ``size`` / ``most`` bytes are not cached."""
        if media not in self._held:
            loaded = load(media, self._frames)
            if media.data is not None or sum(map(len, loaded)) > self._size // self._most:
                return loaded
            self._held[media] = loaded
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return self._held[media]


def _noun(media: Media) -> str:
    return "picture" if media.kind == IMAGE else media.kind


def _name(media: Media) -> str:
    return str(media.path) if media.data is None else f"{_noun(media)} in the row"


def _bytes(media: Media) -> bytes:
    data = _whole(media)
    if not data:
        raise UnusableMediaError("empty file", _name(media))
    return data


def _whole(media: Media) -> bytes:
    name = _name(media)
    if media.data is not None:
        data = media.data
        if len(data) > MAX_BYTES:
            raise UnusableMediaError("too large", f"{name}: {len(data):,} bytes")
        return data
    if media.path is None:
        raise UnusableMediaError(f"missing {_noun(media)}", "the row names none")
    try:
        _check_file(media.path)
        with media.path.open("rb") as file:
            size = media.size or os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise UnusableMediaError("too large", f"{name}: {size:,} bytes")
            file.seek(media.offset)
            data = file.read(size)
    except UnusableMediaError:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UnusableMediaError(f"missing {_noun(media)}", name) from error
    except OSError as error:
        raise UnusableMediaError("unreadable file", f"{name}: {error.strerror}") from error
    if len(data) < media.size:
        raise UnusableMediaError("truncated archive", f"{name}: ends before byte {media.offset + media.size:,}")
    return data


def _check_file(path: Path) -> None:
    """Raise FileNotFoundError unless it is a regular file: reading a pipe may block, and a device may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise FileNotFoundError(path)


def _decoded(data: bytes, name: str) -> Image.Image:
    try:
        return open_image(data, name)
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
        raise UnusableMediaError(NO_FRAMES, f"{folder}: contains no pictures")
    names.sort(key=_natural)
    pictures = {number: _whole(Media(folder / names[number])) for number in set(sample(len(names), frames))}
    for number, data in pictures.items():
        if not data:
            raise UnusableMediaError("empty file", str(folder / names[number]))
        _decoded(data, str(folder / names[number]))
    return tuple(pictures[number] for number in sample(len(names), frames))


def _natural(name: str) -> tuple[list[int], str]:
    """Sort key that puts frame_2 before frame_10."""
    return [int(digits) for digits in re.findall(r"\d+", name)], name


def _moving(media: Media, frames: int) -> tuple[bytes, ...]:
    name = _name(media)
    with _file(media) as file:
        container = container_of(file.read(HEAD))
        file.seek(0)
        if container is None:
            return animated(file, media, frames, name)
        return decoded(file, container, media, frames, name)


@contextlib.contextmanager
def _file(media: Media) -> Iterator[BinaryIO]:
    """The file of a video or audio clip, at its beginning; system errors become UnusableMediaError."""
    name = _name(media)
    try:
        with _open(media) as file:
            if not file.read(1):
                raise UnusableMediaError("empty file", name)
            file.seek(0)
            yield file
    except UnusableMediaError:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UnusableMediaError(f"missing {_noun(media)}", name) from error
    except OSError as error:
        raise UnusableMediaError("unreadable file", f"{name}: {error.strerror}") from error


def _open(media: Media) -> BinaryIO:
    if media.data is not None:
        return io.BytesIO(media.data)
    if media.path is None:
        raise UnusableMediaError(f"missing {_noun(media)}", "the row names none")
    _check_file(media.path)
    if media.size:
        return io.BufferedReader(_Part(media.path, media.offset, media.size))
    return media.path.open("rb")


class _Part(io.RawIOBase):
    """A member of an archive as a separate file."""

    def __init__(self, path: Path, offset: int, size: int):
        self._file, self._offset, self._size = path.open("rb"), offset, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + to)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
