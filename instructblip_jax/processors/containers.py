"""The tracks of video and audio files, opened with PyAV."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.image import MAX_PIXELS

TRACKS = {"video": "no frames", "audio": "no sound track"}
"""Kinds of tracks -> the error reason for a file without one."""

RIFF = ("wav", "avi")
MOST_CHUNKS = 1_000
"""Number of chunks of a RIFF file that are inspected."""


def container_of(head: bytes) -> str | None:
    """The container format of a video file, from its first bytes; None for any other file.

    FFmpeg is given this name and never guesses, so that a playlist posing as a video cannot open other files or URLs.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    return None


def corrupt(kind: str) -> str:
    """The error reason for a file that cannot be decoded."""
    return f"truncated or corrupt {kind}"


def _check_texts(file: BinaryIO, kind: str, name: str) -> None:
    """Raise UnusableMediaError for a RIFF file with a text list longer than the file; seek to its beginning.

    FFmpeg allocates memory for the texts, up to 2 GiB, before it reads any.
    """
    end, at = file.seek(0, os.SEEK_END), 12
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(12)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] == b"LIST" and head[8:] == b"INFO" and size > end - at:
            raise UnusableMediaError(corrupt(kind), f"{name}: its texts are longer than the file; fetch it again")
        if len(head) < 12 or head[8:] == b"movi":
            break
        at += 12 if head[:4] == b"LIST" and head[8:] != b"INFO" else 8 + size + size % 2
    file.seek(0)


@contextlib.contextmanager
def track(file: BinaryIO, container: str, kind: str, name: str) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first track of a `TRACKS` kind; all errors within become UnusableMediaError."""
    try:
        import av
    except ImportError as error:
        raise UnusableMediaError(f"{kind} needs PyAV: pip install av", name) from error
    if container in RIFF:
        _check_texts(file, kind, name)
    options = {"enable_drefs": "0"} if container == "mp4" else {}
    try:
        with av.open(file, "r", format=container, options=options) as source:
            tracks = getattr(source.streams, kind)
            if not tracks:
                raise UnusableMediaError(TRACKS[kind], f"{name}: has no {kind} track")
            stream = tracks[0]
            if stream.codec_context is None:
                raise UnusableMediaError(f"unknown {kind} codec", f"{name}: convert it to another format")
            stream.codec_context.thread_count = 1  # each core already runs a process
            if kind == "video":
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield source, stream
    except UnusableMediaError:
        raise
    except av.error.DecoderNotFoundError as error:
        raise UnusableMediaError(f"unknown {kind} codec", f"{name}: convert it to another format") from error
    except Exception as error:  # demuxers and decoders raise many kinds
        raise UnusableMediaError(corrupt(kind), f"{name}: {error}; fetch it again") from error
