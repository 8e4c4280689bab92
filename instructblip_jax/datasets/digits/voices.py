"""The digits spoken by espeak-ng: one Opus file that ships, made by `tools/digits_voices.py`."""

import io
from functools import cache
from importlib.resources import files
from pathlib import Path

import av
import numpy as np

ASSETS, FILE = Path(str(files("instructblip_jax") / "assets")), "digits_voices/digits.opus"
RATE, SECONDS = 16_000, 1.0
"""Sampling rate, and the length in samples of each clip's slot in the file."""
VOICES, DIGITS = 90, 10
SHARES = {"train": 0.70, "validation": 0.10, "test": 0.20}
"""The voices are split like the scans: none is in two splits. Their order in the file is random."""
LEAD = 0.1
"""Maximum seconds of silence before and after a clip."""


@cache
def _file() -> np.ndarray:
    """All clips, int16 [voices, digits, samples]."""
    with av.open(str(ASSETS / FILE)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    length = round(RATE * SECONDS)
    samples = np.pad(samples, (0, max(0, VOICES * DIGITS * length - len(samples))))
    return samples[: VOICES * DIGITS * length].reshape(VOICES, DIGITS, length)


def load(split: str) -> np.ndarray:
    """The clips of a split's voices, int16 [voices, digits, samples]."""
    start = sum(share for name, share in SHARES.items() if list(SHARES).index(name) < list(SHARES).index(split))
    return _file()[round(start * VOICES) : round((start + SHARES[split]) * VOICES)]


def speak(digit: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """A digit in a voice of ``split``, int16 [samples] of `RATE`: louder or softer, a little later, with some noise."""
    own = load(split)
    clip = own[int(rng.integers(len(own))), digit].astype(np.float32)
    loud = np.flatnonzero(np.abs(clip) > 0.01 * np.abs(clip).max())
    clip = clip[loud[0] : loud[-1] + 1]
    before, after = (int(n) for n in rng.integers(0, round(LEAD * RATE), 2))
    clip = np.pad(clip, (before, after)) * rng.uniform(0.3, 1.5)
    clip += rng.uniform(0, 15) * rng.standard_normal(len(clip))
    return np.rint(np.clip(clip, -32_768, 32_767)).astype(np.int16)


def encode(samples: np.ndarray) -> bytes:
    """Samples int16 [N] of `RATE` as FLAC."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = RATE
        for part in (frame, None):
            container.mux(stream.encode(part))
    return buffer.getvalue()
