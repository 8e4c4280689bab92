"""Frames of video files with PyAV, and limits on the cost of a file."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from PIL import Image

from instructblip_jax.processors.containers import TRACKS, container_of, corrupt, track
from instructblip_jax.processors.content import HEAD, UnusableMediaError, name_of, opened
from instructblip_jax.processors.image import MAX_PIXELS

MOST_FRAMES = 500_000
"""Limit of a video's frames: more than four hours. Longer videos are refused before all frames are counted."""
MOST_DECODED = 10_000_000_000
"""Limit of the pixels decoded to reach a video's frames: about a minute of work."""
KIND = "video"
NO_FRAMES, CORRUPT = TRACKS[KIND], corrupt(KIND)
SEEK = 250
"""Number of frames between two wanted ones from which seeking to a key frame is faster than decoding all in between."""

Choice = Callable[[Sequence[float], float], Sequence[int]]
"""(start time of each frame, duration of the whole, both in seconds) -> ascending indices of the wanted frames."""


def middles(count: int, frames: int) -> list[int]:
    """Indices of ``frames`` frames out of ``count``: the middles of equal parts, floor((i + 1/2) count / frames). If
    there are fewer, some are repeated."""
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def is_video(content: Any) -> bool:
    """True for a path or bytes that begin like a video file; False for files that cannot be opened."""
    try:
        with opened(content, "", "video") as file:
            return container_of(file.read(HEAD)) is not None
    except (UnusableMediaError, OSError):
        return False


def frames_of(content: Any, frames: int, name: str | None = None) -> list[Image.Image]:
    """``frames`` RGB images of a video file, a path or its bytes, at `middles`. Raises UnusableMediaError."""
    name = name_of(content, name, "video")
    with opened(content, name, "video") as file:
        container = container_of(file.read(HEAD))
        file.seek(0)
        if container is None:
            raise UnusableMediaError("not a video", f"{name}: not MP4, Matroska, AVI or MPEG; convert it to MP4")
        return pictures(file, container, lambda times, _: middles(len(times), frames), name)


class Budget:
    """Limits the pixels that are decoded for one file."""

    def __init__(self, name: str):
        self._name, self._left = name, MOST_DECODED

    def spend(self, width: int, height: int) -> None:
        """Account for one frame. Raises UnusableMediaError if it is too large or exceeds the file's limit."""
        self._left -= width * height
        if width * height > MAX_PIXELS or self._left < 0:
            raise UnusableMediaError("too large", f"{self._name}: {width} x {height} pixels per frame")


def pictures(file: BinaryIO, container: str, choose: Choice, name: str) -> list[Image.Image]:
    """The chosen frames of a ``container`` file, RGB. Raises UnusableMediaError."""
    with track(file, container, KIND, name) as (source, stream):
        return _decode(source, stream, choose, name)


def _decode(source: Any, stream: Any, choose: Choice, name: str) -> list[Image.Image]:
    stamps = []
    for packet in source.demux(stream):
        if packet.size:
            stamps.append(packet.pts if packet.pts is not None else packet.dts)
        if len(stamps) > MOST_FRAMES:
            raise UnusableMediaError("too large", f"{name}: more than {MOST_FRAMES:,} frames")
    if not stamps:
        raise UnusableMediaError(NO_FRAMES, f"{name}: has no frames")
    budget = Budget(name)
    if None in stamps or len(set(stamps)) < len(stamps):  # frames cannot be found by time, so count them
        rate = float(stream.average_rate or 25)
        wanted = choose([n / rate for n in range(len(stamps))], len(stamps) / rate)
        source.seek(0)
        return _walk(wanted, _frames(source, stream, budget), name)
    stamps.sort()
    seconds = [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]
    duration = seconds[-1] * len(seconds) / max(1, len(seconds) - 1)  # the last frame has a duration, too
    wanted = choose(seconds, duration)
    return _by_time(source, stream, [stamps[n] for n in wanted], wanted, budget, name)


def _frames(source: Any, stream: Any, budget: Budget) -> Iterator[Any]:
    """Decoded frames from the file's current position; the budget is checked before a frame is decoded."""
    for packet in source.demux(stream):
        budget.spend(stream.codec_context.width, stream.codec_context.height)
        for frame in packet.decode():
            budget.spend(frame.width, frame.height)
            yield frame


def _walk(wanted: Sequence[int], decoded: Iterator[Any], name: str) -> list[Image.Image]:
    found: dict[int, Image.Image] = {}
    frame = None
    for number, frame in enumerate(decoded):
        if number in wanted:
            found[number] = frame.to_image()
        if number >= max(wanted):
            break
    if frame is None:
        raise UnusableMediaError(CORRUPT, f"{name}: no frame can be decoded")
    last = frame.to_image()  # replaces frames that the container lists but that cannot be decoded
    return [found.get(number, last) for number in wanted]


def _by_time(
    source: Any, stream: Any, stamps: Sequence[int], numbers: Sequence[int], budget: Budget, name: str
) -> list[Image.Image]:
    found: list[Image.Image] = []
    frame: Any = None
    decoded, before = iter(()), -SEEK
    for stamp, number in zip(stamps, numbers, strict=True):
        if frame is None or frame.pts is None or frame.pts < stamp:
            if number - before >= SEEK:
                source.seek(stamp, stream=stream)
                decoded = _frames(source, stream, budget)
            for frame in decoded:
                if frame.pts is None or frame.pts >= stamp:
                    break
        if frame is None:
            raise UnusableMediaError(CORRUPT, f"{name}: no frame can be decoded")
        found.append(frame.to_image())
        before = number
    return found
