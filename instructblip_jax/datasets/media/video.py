"""Samples frames from a video file with PyAV."""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.media.frames import (
    CORRUPT,
    MOST_FRAMES,
    NO_FRAMES,
    Budget,
    UnusableMediaError,
    encode,
    sample,
    window,
)
from instructblip_jax.processors.image import MAX_PIXELS

SEEK = 250
"""From this many frames between two wanted ones, seeking to a key frame is faster than decoding all in between."""
NEEDS = "video needs PyAV: pip install av"


def container_of(head: bytes) -> str | None:
    """The container format of a video file, by its first bytes; None for any other file.

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


def decoded(file: BinaryIO, container: str, media: Media, frames: int, name: str) -> tuple[bytes, ...]:
    """``frames`` frames of a ``container`` file, sampled uniformly, as JPEG. Raises UnusableMediaError."""
    try:
        import av
    except ImportError as error:
        raise UnusableMediaError(NEEDS, name) from error
    try:
        with av.open(file, format=container, options={"enable_drefs": "0"} if container == "mp4" else {}) as opened:
            if not opened.streams.video:
                raise UnusableMediaError(NO_FRAMES, f"{name}: has no video track")
            stream = opened.streams.video[0]
            if stream.codec_context is None:
                raise UnusableMediaError("unknown video codec", name)
            stream.codec_context.thread_count = 1  # each core already runs a process
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            return _decode(opened, stream, media, frames, name)
    except UnusableMediaError:
        raise
    except av.error.DecoderNotFoundError as error:
        raise UnusableMediaError("unknown video codec", name) from error
    except Exception as error:  # demuxers and decoders raise many kinds
        raise UnusableMediaError(CORRUPT, f"{name}: {error}") from error


def _decode(opened: Any, stream: Any, media: Media, frames: int, name: str) -> tuple[bytes, ...]:
    stamps = []
    for packet in opened.demux(stream):
        if packet.size:
            stamps.append(packet.pts if packet.pts is not None else packet.dts)
        if len(stamps) > MOST_FRAMES:
            raise UnusableMediaError("too large", f"{name}: more than {MOST_FRAMES:,} frames")
    if not stamps:
        raise UnusableMediaError(NO_FRAMES, f"{name}: has no frames")
    budget = Budget(name)
    if None in stamps or len(set(stamps)) < len(stamps):  # frames cannot be found by time, so count them
        inside = list(range(len(stamps)))
        if media.start or media.end is not None:
            rate = float(stream.average_rate or 25)
            inside = window([n / rate for n in inside], len(inside) / rate, media, name)
        opened.seek(0)
        return _walk([inside[n] for n in sample(len(inside), frames)], _frames(opened, stream, budget), name)
    stamps.sort()
    seconds = [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]
    duration = seconds[-1] * len(seconds) / max(1, len(seconds) - 1)  # the last frame has a duration as well
    inside = window(seconds, duration, media, name)
    wanted = [inside[n] for n in sample(len(inside), frames)]
    return _by_time(opened, stream, [stamps[n] for n in wanted], wanted, budget, name)


def _frames(opened: Any, stream: Any, budget: Budget) -> Iterator[Any]:
    """Decoded frames from the file's current position; the budget is checked before a frame is decoded."""
    for packet in opened.demux(stream):
        budget.spend(stream.codec_context.width, stream.codec_context.height)
        for frame in packet.decode():
            budget.spend(frame.width, frame.height)
            yield frame


def _picture(frame: Any) -> bytes:
    return encode(frame.to_image())


def _walk(wanted: Sequence[int], decoded: Iterator[Any], name: str) -> tuple[bytes, ...]:
    found: dict[int, bytes] = {}
    frame = None
    for number, frame in enumerate(decoded):
        if number in wanted:
            found[number] = _picture(frame)
        if number >= max(wanted):
            break
    if frame is None:
        raise UnusableMediaError(CORRUPT, f"{name}: no frame can be decoded")
    last = _picture(frame)  # stands in for frames that the container lists but that do not decode
    return tuple(found.get(number, last) for number in wanted)


def _by_time(
    opened: Any, stream: Any, stamps: Sequence[int], numbers: Sequence[int], budget: Budget, name: str
) -> tuple[bytes, ...]:
    pictures: list[bytes] = []
    frame: Any = None
    decoded, before = iter(()), -SEEK
    for stamp, number in zip(stamps, numbers, strict=True):
        if frame is None or frame.pts is None or frame.pts < stamp:
            if number - before >= SEEK:
                opened.seek(stamp, stream=stream)
                decoded = _frames(opened, stream, budget)
            for frame in decoded:
                if frame.pts is None or frame.pts >= stamp:
                    break
        if frame is None:
            raise UnusableMediaError(CORRUPT, f"{name}: no frame can be decoded")
        pictures.append(_picture(frame))
        before = number
    return tuple(pictures)
