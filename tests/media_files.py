"""Small files of recordings, made when a test asks."""

import io
import struct
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="recordings need PyAV")

SOUNDS = {
    "wav": ("wav", "pcm_s16le"),
    "float.wav": ("wav", "pcm_f32le"),
    "byte.wav": ("wav", "pcm_u8"),
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "libmp3lame"),
    "ogg": ("ogg", "vorbis"),
    "opus": ("ogg", "libopus"),
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "mkv": ("matroska", "aac"),
    "avi": ("avi", "pcm_s16le"),
}
"""Ending -> container and codec. The last three have a picture too."""
FILMS = ("mp4", "mkv", "avi")


def chirp(seconds: float, rate: int, low: float = 100.0, high: float = 4000.0) -> np.ndarray:
    """float64 [N]: half as loud as can be, from ``low`` to ``high`` Hz."""
    t = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * (low * t + (high - low) / (2 * seconds) * t**2))


def sound(ending: str, channels: np.ndarray, rate: int) -> bytes:
    """A file of float samples [2, N] in -1..1; a film shows grey pictures besides."""
    container, codec = SOUNDS[ending]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        film = out.add_stream("mpeg4", rate=10) if ending in FILMS else None
        track = out.add_stream(codec, rate=rate, layout="stereo", options={"strict": "experimental"})
        if film is not None:
            film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
            for number in range(round(10 * channels.shape[1] / rate)):
                grey = np.full((32, 32, 3), 20 + 10 * (number % 20), np.uint8)
                out.mux(film.encode(av.VideoFrame.from_ndarray(grey)))
            out.mux(film.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels, np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in (*track.encode(frame), *track.encode(None)):
            out.mux(packet)
    return buffer.getvalue()


def wav(samples: np.ndarray, rate: int = 16_000, size: int | None = None) -> bytes:
    """int16 or float32 samples [N, C] as a WAV file, whose header may declare another ``size`` of its data in bytes."""
    body, width = samples.tobytes(), samples.dtype.itemsize
    size = len(body) if size is None else size
    channels = samples.shape[1]
    kind = 3 if samples.dtype.kind == "f" else 1
    form = struct.pack(
        "<HHIIHH", kind, channels, rate, rate * channels * width & 0xFFFFFFFF, channels * width, 8 * width
    )
    riff = struct.pack("<I", min(0xFFFFFFFF, 36 + size))
    return b"RIFF" + riff + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + body
