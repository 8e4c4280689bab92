"""Audio clips of any format, rate and number of channels -> blocks of normalised log mel energies, the input of BEATs
(arXiv 2212.09058; X-InstructBLIP 2311.18799).

All channels are averaged; the original averages two, and reads only the first of more. Clips are resampled as in
torchaudio by default (`resampled`); the filter bank is Kaldi's (`filter_bank`). A clip shorter than the blocks is
padded with zeros after normalising, which is the mean level, not silence. Audio after the blocks is not decoded.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from instructblip_jax.processors.containers import container_of, corrupt, track
from instructblip_jax.processors.content import HEAD, UnusableMediaError, name_of, opened

RATE = 16_000
"""Sampling rate of stored and processed audio in Hz."""
RATES = (1_000, 384_000)
"""Accepted sampling rates of files in Hz; others indicate damage."""
MOST_CHANNELS = 64
MOST_PACKETS = 500_000
"""Limit of the packets that are skipped or decoded to reach a clip's samples."""
MARGIN = 0.1
"""Seconds read beyond a clip's end, more than its last resampled values depend on."""
CORRUPT = corrupt("audio")
NOUN = "recording"
FORMATS = "WAV, FLAC, MP3, Ogg, MP4, Matroska, AVI, MPEG"

FLOOR = float(np.finfo(np.float32).eps)
"""Minimum energy of a band, before the logarithm."""
LOWEST = 20.0
"""Lower edge of the first band in Hz; the last one ends at half the rate."""


@dataclasses.dataclass(frozen=True)
class AudioProcessor:
    """BEATs' settings in X-InstructBLIP.

    Attributes:
      rate: sampling rate of the filter bank's input in Hz.
      mels: number of bands M.
      block, blocks: frames T per block, 10 ms each, and blocks K per clip.
      mean, std: energies become (x - mean) / (2 std).
    """

    rate: int = RATE
    mels: int = 128
    block: int = 512
    blocks: int = 2
    mean: float = 15.41663
    std: float = 6.55582

    def values(self, content: Any, name: str | None = None) -> np.ndarray:
        """One clip, a path, a file's bytes or (samples, rate) as `samples_of` reads them -> float32 [K, T, M].

        Raises UnusableMediaError for a clip that cannot be read, or is shorter than a frame of 25 ms.
        """
        name = name_of(content, name, NOUN)
        frames = self.block * self.blocks
        window, hop = self.rate // 40, self.rate // 100
        most = (frames - 1) * hop + window
        wave = resampled(*samples_of(content, name, most / self.rate), self.rate)[:most]
        if len(wave) < window:
            detail = f"{name}: {len(wave)} samples at {self.rate:,} Hz; leave it out, or give a longer clip"
            raise UnusableMediaError("shorter than 25 ms", detail)
        energies = filter_bank(wave.astype(np.float64) * 2**15, self.rate, self.mels)
        values = np.zeros((frames, self.mels), np.float32)
        values[: len(energies)] = (energies - self.mean) / (2 * self.std)
        return values.reshape(self.blocks, self.block, self.mels)


def samples_of(content: Any, name: str, seconds: float) -> tuple[np.ndarray, int]:
    """The first ``seconds`` of a clip, and slightly more: float32 [N] in -1..1, all channels averaged, and its rate.

    ``content``: a path, a file's bytes, or (samples, rate) with samples [N], or [N, C] or [C, N] of fewer channels C
    than samples N; integers are divided by their type's range. Raises UnusableMediaError.
    """
    if isinstance(content, tuple) and len(content) == 2:
        samples, rate = np.asarray(content[0]), content[1]
        if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf" or not isinstance(rate, (int, np.integer)):
            detail = f"{name}: {samples.dtype} {samples.shape} at {rate!r}; give (numbers [N] or [N, C], rate)"
            raise UnusableMediaError("not a recording", detail)
        rows = samples[None] if samples.ndim == 1 else samples if len(samples) <= samples.shape[1] else samples.T
        _check(len(rows), int(rate), name)
        wave = _mono(rows[:, : math.ceil((seconds + MARGIN) * int(rate))])
        return _finite(wave, name), int(rate)
    with opened(content, name, NOUN) as file:
        return samples_in(file, name, seconds)


def samples_in(file: BinaryIO, name: str, seconds: float, start: float = 0.0) -> tuple[np.ndarray, int]:
    """``seconds`` of a file from second ``start`` on, as in `samples_of`. Raises UnusableMediaError."""
    container = _container(file.read(HEAD))
    file.seek(0)
    if container is None:
        raise UnusableMediaError("not a recording", f"{name}: none of {FORMATS}; convert it to one of these")
    wave, rate = _decoded(file, container, name, seconds, start)
    return _finite(wave, name), rate


def _container(head: bytes) -> str | None:
    """FFmpeg's name of a file's container, from its first bytes, so that it never guesses (see `container_of`)."""
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    synchronised = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06
    if head[:3] == b"ID3" or synchronised:  # the last two bits are 0 in AAC streams
        return "mp3"
    return container_of(head)


def _decoded(file: BinaryIO, container: str, name: str, seconds: float, start: float) -> tuple[np.ndarray, int]:
    """A part of a file's first audio track, float32 [N], and its rate.

    Packets that cannot be decoded are skipped if they are less than a tenth: broken first frames are common in MP3.
    """
    with track(file, container, "audio", name) as (source, stream):
        return _part(source.demux(stream), name, seconds, start)


def _part(packets: Iterable[Any], name: str, seconds: float, start: float) -> tuple[np.ndarray, int]:
    from av.error import FFmpegError

    pieces: list[np.ndarray] = []
    rate = read = good = bad = 0
    for number, packet in enumerate(packets):
        if number >= MOST_PACKETS:
            raise UnusableMediaError("too large", f"{name}: more than {MOST_PACKETS:,} packets before the clip's end")
        try:
            frames = packet.decode()
            good += bool(packet.size)
        except FFmpegError:
            bad += 1
            continue
        for frame in frames:
            samples = frame.to_ndarray()
            channels = frame.layout.nb_channels
            _check(channels, frame.sample_rate, name)
            if frame.sample_rate != (rate or frame.sample_rate):
                raise UnusableMediaError(CORRUPT, f"{name}: its rate changes; convert it to FLAC")
            rate = frame.sample_rate
            wave = _mono(samples if frame.format.is_planar else samples.reshape(-1, channels).T)
            pieces.append(wave[max(0, round(start * rate) - read) :])
            read += wave.size
        if rate and read >= (start + seconds + MARGIN) * rate:
            break
    if not read or bad * 10 > good:
        raise UnusableMediaError(CORRUPT, f"{name}: {bad} of {good + bad} packets do not decode; fetch it again")
    if not sum(piece.size for piece in pieces):
        raise UnusableMediaError("clip outside of the recording", f"{name}: ends before second {start:g}")
    return np.concatenate(pieces), rate


def _check(channels: int, rate: int, name: str) -> None:
    if not 0 < channels <= MOST_CHANNELS:
        detail = f"{name}: {channels} channels; 1 to {MOST_CHANNELS} are supported; mix it down"
        raise UnusableMediaError("unsupported channels or rate", detail)
    if not RATES[0] <= rate <= RATES[1]:
        detail = f"{name}: {rate:,} Hz; {RATES[0]:,} to {RATES[1]:,} are supported; resample it"
        raise UnusableMediaError("unsupported channels or rate", detail)


def _mono(rows: np.ndarray) -> np.ndarray:
    """Channels [C, N] of any type -> their mean, float32 [N], with integers scaled to -1..1."""
    with np.errstate(all="ignore"):  # `_finite` reports NaN and infinity
        mean = rows.mean(0, dtype=np.float64)
        if rows.dtype.kind in "iu":
            half = 2.0 ** (8 * rows.dtype.itemsize - 1)
            mean = mean / half - (1 if rows.dtype.kind == "u" else 0)
        return mean.astype(np.float32)


def _finite(wave: np.ndarray, name: str) -> np.ndarray:
    if not wave.size:
        raise UnusableMediaError("no samples", f"{name}: leave it out, or fetch it again")
    if not np.isfinite(wave).all():
        raise UnusableMediaError("samples that are no numbers", f"{name}: contains NaN or infinity; save it again")
    return wave


# Rates

ZEROS, ROLL_OFF = 6, 0.99
"""Zero crossings of the sinc on either side, and the cut-off relative to half the lower rate: torchaudio's."""


def resampled(wave: np.ndarray, old: int, new: int) -> np.ndarray:
    """float32 [N] at ``old`` Hz -> float32 [ceil(N new / old)] at ``new`` Hz, by a sinc of `ZEROS` zero crossings per
    side under a Hann window, with zeros beyond the ends. The weights are torchaudio's default."""
    if old == new:
        return wave
    common = math.gcd(old, new)
    old, new = old // common, new // common
    weights = _weights(old, new)  # [new, taps]
    half = weights.shape[1] // 2
    count = -(-len(wave) * new // old)
    padded = np.pad(wave.astype(np.float64), (half, half + 1))
    found = np.empty(count, np.float32)
    step = max(1, (1 << 20) // weights.shape[1])  # bounds the memory for gathered samples
    for begin in range(0, count, step):
        place = np.arange(begin, min(count, begin + step), dtype=np.int64) * old
        taps = padded[(place // new)[:, None] + np.arange(weights.shape[1])]
        found[begin : begin + step] = np.einsum("nt,nt->n", taps, weights[place % new])
    return found


@functools.lru_cache(maxsize=4)
def _weights(old: int, new: int) -> np.ndarray:
    """Row p: the weights of the samples around a point p / new samples after a sample, [new, taps] float64."""
    cut = min(1.0, new / old) * ROLL_OFF  # half periods of the sinc per sample
    half = math.ceil(ZEROS / cut)
    away = np.arange(-half, half + 1) - (np.arange(new) / new)[:, None]
    phase = np.clip(away * cut, -ZEROS, ZEROS)
    return np.sinc(phase) * np.cos(phase * np.pi / (2 * ZEROS)) ** 2 * cut


# The filter bank


def filter_bank(wave: np.ndarray, rate: int, mels: int) -> np.ndarray:
    """Kaldi's log mel energies, without dither: float64 [N] of 16-bit range -> float64 [1 + (N - 400) // 160, mels].

    Complete frames of 25 ms every 10 ms; each minus its mean, pre-emphasis 0.97, Hann window to the power 0.85, power
    spectrum, filters that are triangular on the mel scale, logarithm of at least `FLOOR`. Sample counts are for 16 kHz.
    At 128 mels one band contains no bin of the spectrum and is always log `FLOOR`.
    """
    window, hop = rate // 40, rate // 100
    frames = np.lib.stride_tricks.sliding_window_view(wave, window)[::hop]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    size = 1 << (window - 1).bit_length()
    shape, bank = _constants(window, size, rate, mels)
    spectrum = np.fft.rfft(frames * shape, size)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(np.maximum(power[:, :-1] @ bank, FLOOR))


@functools.lru_cache(maxsize=4)
def _constants(window: int, size: int, rate: int, mels: int) -> tuple[np.ndarray, np.ndarray]:
    """The window [window] and the triangles [size / 2, mels]; the bin at half the rate is in none."""
    shape = np.hanning(window) ** 0.85
    low, high = _mel(np.array([LOWEST, rate / 2]))
    edges = low + np.arange(mels + 2) * (high - low) / (mels + 1)
    at = _mel(np.arange(size // 2) * rate / size)[:, None]
    up = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return shape, np.maximum(0.0, np.minimum(up, down))


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)
