"""Audio clips and tracks in records: FLAC, one channel of 16 bit at 16 kHz."""

import io
from typing import BinaryIO

import numpy as np

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.media.frames import LONGER
from instructblip_jax.processors.audio import RATE, resampled, samples_in
from instructblip_jax.processors.content import UnusableMediaError

LONGEST = 31.0
"""Maximum seconds of a stored clip: three of BEATs' blocks are 15, and WavCaps' clips are at most 30."""
SHORTEST = RATE // 40
"""Minimum number of samples of a clip: one frame of 25 ms."""


def stored(file: BinaryIO, media: Media, name: str) -> bytes:
    """The clip of an audio file or of a video's audio track, as FLAC of at most `LONGEST` seconds.

    It is between ``media.start`` and ``media.end``, unless the file is the clip itself: longer by less than `LONGER`.
    Raises UnusableMediaError.
    """
    seconds = LONGEST if media.end is None else min(LONGEST, media.end - media.start)
    wave, rate = samples_in(file, name, seconds + LONGER)
    if media.start and (media.end is None or len(wave) > (media.end - media.start + LONGER) * rate):
        file.seek(0)
        wave, rate = samples_in(file, name, seconds, media.start)
    wave = resampled(wave, rate, RATE)[: round(seconds * RATE)]
    if len(wave) < SHORTEST:
        raise UnusableMediaError("shorter than 25 ms", f"{name}: {len(wave)} samples at {RATE:,} Hz")
    return encode(wave)


def encode(wave: np.ndarray) -> bytes:
    """Samples float32 [N] in -1..1 at `RATE` as FLAC; samples beyond that range are clipped."""
    import av

    levels = np.minimum(np.round(np.clip(wave, -1, 1) * 2.0**15), 2**15 - 1).astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("flac", rate=RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(levels[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()
