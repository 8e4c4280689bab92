"""The bytes of audio, point clouds and video from users and records, and the error for unusable ones."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from instructblip_jax.processors.image import MAX_BYTES

HEAD = 16
"""Number of bytes by which a container is detected."""


class UnusableMediaError(ValueError):
    """A medium that cannot be used. ``reason`` is one of a few fixed phrases, ``detail`` is specific."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{detail}: {reason}" if detail else reason)
        self.reason, self.detail = reason, detail


def name_of(content: Any, name: str | None, noun: str) -> str:
    """A path's own name, else ``name``, else ``noun``."""
    return str(content) if isinstance(content, (str, os.PathLike)) else name or noun


def opened(content: Any, name: str, noun: str) -> BinaryIO:
    """A path or bytes as a seekable file. Raises UnusableMediaError if it is missing, empty or not a regular file."""
    if not isinstance(content, (bytes, bytearray, memoryview, str, os.PathLike)):
        detail = f"{name}: a {type(content).__name__}; give a path, a file's bytes, or an array as in docs/media.md"
        raise UnusableMediaError(f"not a {noun}", detail)
    try:
        if isinstance(content, (str, os.PathLike)):
            path = Path(content)
            if not path.is_file():  # a pipe may block, and a device may never end
                raise FileNotFoundError(path)
            file: BinaryIO = path.open("rb")
        else:
            file = io.BytesIO(content)
        empty = not file.read(1)
        file.seek(0)
    except (FileNotFoundError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UnusableMediaError(f"missing {noun}", f"{name!r}: no such file; correct its path") from error
    except OSError as error:
        raise UnusableMediaError("unreadable file", f"{name}: {error.strerror}; check disk and permissions") from error
    if empty:
        file.close()
        raise UnusableMediaError("empty file", f"{name}: fetch it again")
    return file


def whole(content: Any, name: str, noun: str) -> bytes:
    """All bytes of a path, or bytes unchanged. Raises UnusableMediaError, also for more than `MAX_BYTES`."""
    with opened(content, name, noun) as file:
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UnusableMediaError(
                "unreadable file", f"{name}: {error.strerror}; check disk and permissions"
            ) from error
    if len(data) > MAX_BYTES:
        raise UnusableMediaError("too large", f"{name}: more than {MAX_BYTES >> 20} MiB; store fewer points")
    return data
