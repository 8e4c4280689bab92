"""Frames of a moving picture, drawn uniformly, within bounds that a hostile file cannot leave.

Frames are stored as JPEG of quality 95 without chroma subsampling: videos are lossy already, and as PNG the frames of
MSRVTT-QA's test split alone would take about 40 GB, for nothing that the model sees.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from instructblip_jax.data.draft import Media
from instructblip_jax.processors.image import MAX_BYTES, MAX_PIXELS, UnusableImageError, open_image

QUALITY = 95
MOST_PACKETS = 500_000
"""Frames of a video file that are looked at without decoding them; more than four hours."""
MOST_DECODED = 10_000_000_000
"""Pixels that are decoded to find a video's frames: a minute or so."""
SEEK = 250
"""Frames between two wanted ones, from which on it is quicker to go to the nearest key frame than to decode on."""
LONGER = 1.0
"""Seconds by which a file must be longer than the clip asked for, not to be taken for the clip itself."""
ANIMATED = ("GIF", "PNG", "WEBP")
NO_FRAMES = "no frames"
NEEDS = "video needs PyAV: pip install instructblip_jax[video]"
_CORRUPT = "truncated or corrupt video"


class UnusableMediaError(ValueError):
    """A picture or video that no record can hold. ``reason`` is one of few phrases, ``detail`` what is particular."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{detail}: {reason}" if detail else reason)
        self.reason, self.detail = reason, detail


def sample(count: int, frames: int) -> list[int]:
    """Numbers of the frames to take of ``count``: uniformly; where there are fewer, all, and the last again."""
    if count < frames:
        return [min(i, count - 1) for i in range(frames)]
    return [i * count // frames for i in range(frames)]


def moving(media: Media, frames: int) -> tuple[bytes, ...]:
    """So many frames, as JPEG, of an animated picture or a video file. Raises UnusableMediaError."""
    name = str(media.path) if media.data is None else "video in the row"
    try:
        with _open(media) as file:
            head = file.read(16)
            file.seek(0)
            if not head:
                raise UnusableMediaError("empty file", name)
            container = _container(head)
            if container is None:
                return _animation(file, media, frames, name)
            return _video(file, container, media, frames, name)
    except FileNotFoundError as error:
        raise UnusableMediaError("missing video", name) from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise UnusableMediaError("missing video", name) from error


class _Part(io.RawIOBase):
    """A member of an archive, as a file of its own."""

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


def _open(media: Media) -> BinaryIO:
    if media.data is not None:
        return io.BytesIO(media.data)
    if media.path is None:
        raise UnusableMediaError("missing video", "the row names none")
    if media.size:
        return io.BufferedReader(_Part(media.path, media.offset, media.size))
    return media.path.open("rb")


def _container(head: bytes) -> str | None:
    """The container's name by its first bytes; None: no video file. Given by name, no playlist can pose as a video and
    have other files or addresses opened."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    return None


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


class _Budget:
    """Counts decoded pixels."""

    def __init__(self, name: str):
        self._name, self._left = name, MOST_DECODED

    def spend(self, width: int, height: int) -> None:
        """Raise UnusableMediaError for a frame that is too large, or the one that is too many."""
        self._left -= width * height
        if width * height > MAX_PIXELS or self._left < 0:
            raise UnusableMediaError("too large", f"{self._name}: {width} x {height} pixels a frame")


def _window(times: Sequence[float], duration: float, media: Media, name: str) -> list[int]:
    """Numbers of the frames between the clip's start and end, or of all where the file is the clip already."""
    end = duration if media.end is None else media.end
    if duration <= end - media.start + LONGER:
        return list(range(len(times)))
    inside = [number for number, time in enumerate(times) if media.start <= time < end]
    if not inside:
        detail = f"{name}: {duration:.1f} s long, asked for {media.start:g} to {end:g} s"
        raise UnusableMediaError("clip outside of the video", detail)
    return inside


# Animated pictures


def _animation(file: BinaryIO, media: Media, frames: int, name: str) -> tuple[bytes, ...]:
    if file.seek(0, os.SEEK_END) > MAX_BYTES:
        raise UnusableMediaError("not a video", f"{name}: of no known container, and too large for a picture")
    file.seek(0)
    data = io.BytesIO(file.read())
    budget = _Budget(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(data, formats=ANIMATED)
            count = getattr(image, "n_frames", 1)
            if count > MOST_PACKETS:
                raise UnusableMediaError("too large", f"{name}: {count:,} frames")
            times = [0.0]
            if media.start or media.end is not None:
                times = _times(image, count, budget)
            inside = _window(times[:-1], times[-1], media, name) if len(times) > 1 else range(count)
            wanted = [inside[n] for n in sample(len(inside), frames)]
            found: dict[int, bytes] = {}
            for number in range(max(wanted) + 1):
                budget.spend(*image.size)
                image.seek(number)
                if number in wanted:
                    found[number] = _encode(open_image(image.copy(), name))
            return tuple(found[number] for number in wanted)
    except UnusableMediaError:
        raise
    except UnusableImageError as error:
        raise UnusableMediaError(error.reason, str(error)) from error
    except UnidentifiedImageError as error:
        raise UnusableMediaError("not a video", f"{name}: of no known container") from error
    except Image.DecompressionBombError as error:
        raise UnusableMediaError("too large", f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt data
        raise UnusableMediaError(_CORRUPT, f"{name}: {error}") from error


def _times(image: Image.Image, count: int, budget: _Budget) -> list[float]:
    """Seconds at which each frame begins, and the end."""
    times = [0.0]
    for number in range(count):
        budget.spend(*image.size)
        image.seek(number)
        image.load()  # WebP tells a frame's time with its pixels
        times.append(times[-1] + float(image.info.get("duration") or 100) / 1000)
    image.seek(0)
    return times


# Video files


def _video(file: BinaryIO, container: str, media: Media, frames: int, name: str) -> tuple[bytes, ...]:
    try:
        import av
    except ImportError as error:
        raise UnusableMediaError(NEEDS, name) from error
    try:
        with av.open(file, format=container, options={"enable_drefs": "0"} if container == "mp4" else {}) as opened:
            if not opened.streams.video:
                raise UnusableMediaError(NO_FRAMES, f"{name}: has no picture track")
            stream = opened.streams.video[0]
            stream.codec_context.thread_count = 1  # a process a core already
            return _decode(opened, stream, media, frames, name)
    except UnusableMediaError:
        raise
    except UnusableImageError as error:
        raise UnusableMediaError(error.reason, str(error)) from error
    except av.error.DecoderNotFoundError as error:
        raise UnusableMediaError("unknown video codec", name) from error
    except Exception as error:  # the demuxers' and decoders' many kinds
        raise UnusableMediaError(_CORRUPT, f"{name}: {error}") from error


def _decode(opened: Any, stream: Any, media: Media, frames: int, name: str) -> tuple[bytes, ...]:
    if stream.codec_context is None:
        raise UnusableMediaError("unknown video codec", name)
    stamps = []
    for packet in opened.demux(stream):
        if packet.size:
            stamps.append(packet.pts if packet.pts is not None else packet.dts)
        if len(stamps) > MOST_PACKETS:
            raise UnusableMediaError("too large", f"{name}: more than {MOST_PACKETS:,} frames")
    if not stamps:
        raise UnusableMediaError(NO_FRAMES, f"{name}: has no picture")
    budget = _Budget(name)
    if None in stamps or len(set(stamps)) < len(stamps):  # no frame can be found by its time: by its number then
        inside = list(range(len(stamps)))
        if media.start or media.end is not None:
            rate = float(stream.average_rate or 25)
            inside = _window([n / rate for n in inside], len(inside) / rate, media, name)
        opened.seek(0)
        return _walk([inside[n] for n in sample(len(inside), frames)], _frames(opened, stream, budget), name)
    stamps.sort()
    seconds = [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]
    duration = seconds[-1] * len(seconds) / max(1, len(seconds) - 1)  # the last frame lasts, too
    inside = _window(seconds, duration, media, name)
    wanted = [inside[n] for n in sample(len(inside), frames)]
    return _by_time(opened, stream, [stamps[n] for n in wanted], wanted, budget, name)


def _frames(opened: Any, stream: Any, budget: _Budget) -> Iterator[Any]:
    """Decoded frames from where the file stands, within the budget: the size is looked at before the pixels are."""
    for packet in opened.demux(stream):
        budget.spend(stream.codec_context.width, stream.codec_context.height)
        for frame in packet.decode():
            budget.spend(frame.width, frame.height)
            yield frame


def _picture(frame: Any) -> bytes:
    return _encode(frame.to_image())


def _walk(wanted: Sequence[int], decoded: Iterator[Any], name: str) -> tuple[bytes, ...]:
    found: dict[int, bytes] = {}
    last: Callable[[], bytes] | None = None
    for number, frame in enumerate(decoded):
        last = lambda frame=frame: _picture(frame)
        if number in wanted:
            found[number] = _picture(frame)
        if number >= max(wanted):
            break
    if last is None:
        raise UnusableMediaError(_CORRUPT, f"{name}: no frame can be decoded")
    return tuple(found[number] if number in found else last() for number in wanted)


def _by_time(
    opened: Any, stream: Any, stamps: Sequence[int], numbers: Sequence[int], budget: _Budget, name: str
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
            raise UnusableMediaError(_CORRUPT, f"{name}: no frame can be decoded")
        pictures.append(_picture(frame))
        before = number
    return tuple(pictures)
