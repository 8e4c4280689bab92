"""Recordings of any kind become BEATs' blocks, or one of few reasons."""

import io
import math
import os
import resource
import tracemalloc
from pathlib import Path

import media_files
import numpy as np
import pytest
from media_files import SOUNDS, chirp, sound, wav

from instructblip_jax.processors.audio import AudioProcessor, filter_bank, resampled, samples_of
from instructblip_jax.processors.content import UnusableMediaError

BEATS = AudioProcessor()


def reason(content, name: str | None = "a clip") -> str:
    with pytest.raises(UnusableMediaError) as caught:
        BEATS.values(content, name)
    named = repr(str(content))[1:-1] if isinstance(content, Path) else "a clip"
    assert named in str(caught.value)
    return caught.value.reason


# The filter bank


def plain_bank(wave: np.ndarray) -> np.ndarray:
    """Kaldi's filter bank at 16 kHz, frame by frame, by sums over cosines and sines."""
    mel = [1127 * math.log(1 + hertz / 700) for hertz in (20.0, 8000.0)]
    edges = [mel[0] + n * (mel[1] - mel[0]) / 129 for n in range(130)]
    bins = [1127 * math.log(1 + 31.25 * n / 700) for n in range(256)]
    bank = np.zeros((128, 256))
    for band in range(128):
        left, centre, right = edges[band : band + 3]
        for n, at in enumerate(bins):
            if left < at < right:
                bank[band, n] = (at - left) / (centre - left) if at <= centre else (right - at) / (right - centre)
    window = [(0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) ** 0.85 for n in range(400)]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(256), np.arange(400)) / 512)
    rows = []
    for begin in range(0, len(wave) - 399, 160):
        frame = wave[begin : begin + 400].astype(np.float64)
        frame = frame - frame.mean()
        frame = np.array([x - 0.97 * frame[max(0, n - 1)] for n, x in enumerate(frame)]) * window
        rows.append(np.log(np.maximum(bank @ np.abs(turns @ frame) ** 2, 2.0**-23)))
    return np.array(rows)


def test_the_filter_bank_is_kaldis():
    rng = np.random.default_rng(0)
    noisy = chirp(0.1, 16_000) + 0.02 * rng.standard_normal(1600)
    click = np.zeros(1600)
    click[700] = 0.9
    for wave in (noisy, click, np.sign(chirp(0.05, 16_000)) * 0.9 + 0.05, 0.1 * rng.standard_normal(400)):
        found = filter_bank(wave * 2**15, 16_000, 128)
        assert found.shape == (1 + (len(wave) - 400) // 160, 128)
        np.testing.assert_allclose(found, plain_bank(wave * 2**15), atol=1e-6)
        np.testing.assert_allclose(found[:, 3], -15.942385, atol=1e-6)  # this band holds no bin


def test_the_filter_bank_is_the_oracles():
    """Sums of bands and of frames of `modality_towers_reference.py`'s fbank.npz, seed 0: the 5.3 s chirp with noise."""
    rng = np.random.default_rng(0)
    t = np.arange(int(5.3 * 16_000)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (60 * t + 350 * t**2)) + 0.02 * rng.standard_normal(len(t))
    values = BEATS.values((wave.astype(np.float32), 16_000))
    want = np.load(Path(__file__).with_name("fbank_golden.npz"))
    np.testing.assert_allclose(values[:, ::32], want["frames"], atol=2e-6)
    np.testing.assert_allclose(values.sum((0, 1)), want["bands"], rtol=1e-5)
    assert not values[1, 529 - 512 :].any()  # zeros after normalising; 528 frames are the clip's


def test_blocks_are_filled_up_and_cut():
    rng = np.random.default_rng(1)
    long = rng.uniform(-0.5, 0.5, 200_000)
    whole = BEATS.values((long, 16_000))
    assert whole.shape == (2, 512, 128)
    assert whole.dtype == np.float32
    assert whole.all()
    np.testing.assert_array_equal(BEATS.values((long[: 1023 * 160 + 400], 16_000)), whole)  # and no more is read
    short = BEATS.values((long[:80_000], 16_000))
    np.testing.assert_array_equal(short[0, :498], whole[0, :498])
    assert not short[0, 498:].any()
    assert not short[1].any()
    small = AudioProcessor(mels=8, block=10, blocks=3, mean=0.0, std=0.5).values((long, 16_000))
    np.testing.assert_allclose(small.reshape(30, 8), filter_bank(long[:5040] * 2**15, 16_000, 8), rtol=1e-5)


# Rates and channels


def plain_sinc(wave: np.ndarray, old: int, new: int, place: int) -> float:
    """Sample ``place`` of the resampled wave, summed over all of the old ones."""
    cut = 0.99 * min(old, new)
    total = 0.0
    for n, x in enumerate(wave):
        away = (n / old - place / new) * cut
        if abs(away) < 6:
            sinc = math.sin(math.pi * away) / (math.pi * away) if away else 1.0
            total += x * sinc * math.cos(math.pi * away / 12) ** 2 * cut / old
    return total


@pytest.mark.parametrize("old", [8_000, 11_025, 44_100, 48_000, 44_101, 192_000])
def test_rates_are_changed_by_a_windowed_sinc(old):
    wave = chirp(0.25, old, 100, 3000).astype(np.float32)
    found = resampled(wave, old, 16_000)
    assert len(found) == math.ceil(len(wave) * 16_000 / old)
    for place in (0, 1, 777, 2000, len(found) - 1):
        assert found[place] == pytest.approx(plain_sinc(wave, old, 16_000, place), abs=1e-5)
    inner = slice(200, -200)
    np.testing.assert_allclose(found[inner], chirp(0.25, 16_000, 100, 3000)[inner][: len(found) - 400], atol=1e-2)


def test_what_16_khz_cannot_hold_is_taken_out():
    tone = np.sin(2 * np.pi * 11_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(resampled(tone, 48_000, 16_000)[100:-100]).max() < 1e-2


def test_arrays_of_any_type_and_all_channels():
    rng = np.random.default_rng(2)
    stereo = rng.integers(-(2**15), 2**15, (5000, 2)).astype(np.int16)
    mean = stereo.mean(1) / 2**15
    for samples in (stereo, stereo.T, stereo / 2**15, stereo.astype(np.int32) << 16, stereo[:, [0, 1, 1, 0]]):
        wave, rate = samples_of((samples, 16_000), "a", 10.0)
        assert (wave.dtype, rate) == (np.float32, 16_000)
        np.testing.assert_allclose(wave, mean, atol=1e-7)
    low = ((stereo[:, 0] >> 8) + 128).astype(np.uint8)
    np.testing.assert_allclose(samples_of((low, 8_000), "a", 10.0)[0], (low - 128.0) / 128)


@pytest.mark.parametrize("ending", SOUNDS)
def test_files_of_every_kind(tmp_path, ending):
    rate = 48_000 if ending == "opus" else 44_100
    left = chirp(1.2, rate)
    data = sound(ending, np.stack([left, np.zeros_like(left)]), rate)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b.txt").symlink_to(tmp_path / "a")  # names say nothing
    found = BEATS.values(tmp_path / "b.txt")
    np.testing.assert_array_equal(found, BEATS.values(data))
    want = BEATS.values((left / 2, rate))  # the mean of both channels
    loud = want[0, 10:90] > 0.2
    off = np.abs(found[0, 10:90] - want[0, 10:90])[loud]
    exact = ending in ("wav", "float.wav", "flac", "avi")
    assert np.median(off) < (1e-4 if exact else 0.03)


def test_only_the_blocks_are_decoded(monkeypatch):
    """A clip of an hour costs what its first 10 s cost."""
    data = wav(np.zeros((3600 * 16_000, 1), np.int16))
    tracemalloc.start()
    BEATS.values(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


# What cannot be read


def test_each_reason(tmp_path, monkeypatch):
    good = wav(np.ones((2000, 1), np.int16))
    film = sound("mp4", np.stack([chirp(1.0, 16_000)] * 2), 16_000)
    holed = np.zeros((2000, 1), np.float32)
    holed[7] = np.nan
    for want, content in {
        "empty file": b"",
        "not a recording": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "truncated or corrupt audio": film[: len(film) // 2],
        "no samples": (np.zeros(0), 16_000),
        "shorter than 25 ms": wav(np.ones((399, 1), np.int16)),
        "unsupported channels or rate": wav(np.ones((2000, 100), np.int16)),
        "samples that are no numbers": wav(holed),
    }.items():
        assert reason(content) == want
    (tmp_path / "empty.wav").write_bytes(b"")
    assert reason(tmp_path / "empty.wav") == "empty file"
    assert reason(tmp_path / "gone.wav") == reason(tmp_path) == "missing recording"
    assert reason(Path("a clip\0")) == "missing recording"
    os.mkfifo(tmp_path / "pipe")
    assert reason(tmp_path / "pipe") == "missing recording"  # and is not waited for
    assert reason(wav(np.ones((2000, 1), np.int16), rate=10)) == "unsupported channels or rate"
    assert reason(wav(np.full((2000, 1), np.inf, np.float32))) == "samples that are no numbers"
    assert reason(good[:44]) == "truncated or corrupt audio"
    for content in (None, 7, (good, 16_000), (np.ones(500), 16e3), ("a", "b")):
        assert reason(content) == "not a recording"
    silent = io.BytesIO()
    with media_files.av.open(silent, "w", format="mp4") as out:
        track = out.add_stream("mpeg4", rate=10)
        track.width, track.height, track.pix_fmt = 32, 32, "yuv420p"
        out.mux(track.encode(media_files.av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        out.mux(track.encode(None))
    assert reason(silent.getvalue()) == "no sound track"
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert reason(good) == "audio needs PyAV: pip install av"


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_headers_of_streams_that_know_no_size(size):
    samples = np.random.default_rng(3).integers(-9000, 9000, (4000, 1)).astype(np.int16)
    np.testing.assert_array_equal(BEATS.values(wav(samples, size=size)), BEATS.values((samples, 16_000)))


def test_no_room_is_made_for_texts_that_are_not_there():
    texts = b"LIST\x1a\0\x73\x7fINFOISFT\x0e\0\0\x60name\0\0\0\0\0\0\0\0\0\0"
    data = wav(np.ones((2000, 1), np.int16))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason(data[:36] + texts + data[36:]) == "truncated or corrupt audio"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 500_000  # kB


def test_damaged_files_are_read_or_refused():
    """204 of them, of all kinds; the memory of NumPy's arrays is bounded by the blocks."""
    rng = np.random.default_rng(4)
    small = AudioProcessor(mels=8, block=8, blocks=1)
    whole = {ending: sound(ending, np.stack([chirp(0.4, 48_000)] * 2), 48_000) for ending in SOUNDS}
    read, refusals = 0, []
    tracemalloc.start()
    for number in range(204):
        data = bytearray(whole[list(SOUNDS)[number % len(SOUNDS)]])
        if number % 3 == 0:
            del data[int(rng.integers(1, len(data))) :]
        else:
            for place in rng.integers(0, (len(data), 200)[number % 2], 1 + number % 12):
                data[place] = rng.integers(256)
        try:
            values = small.values(bytes(data), "a mutant")
        except UnusableMediaError as error:
            refusals.append(error.detail)
        else:
            assert values.shape == (1, 8, 8)
            assert np.isfinite(values).all()
            read += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert min(read, len(refusals)) > 20
    assert all(detail.startswith("a mutant") for detail in refusals)
