"""`prepare` stores recordings, sound tracks and point clouds, and leaves some out with a reason."""

import io
import tarfile

import numpy as np
import pytest
from media_files import chirp, sound, wav
from preparing import draft

from instructblip_jax.data.prepared import open_set
from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.media import audio, points
from instructblip_jax.datasets.media.load import load
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.processors.audio import AudioProcessor, samples_of
from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.points import PointProcessor, centred

CLOUD = np.random.default_rng(0).uniform(-3, 5, (40, 3))


def reason(media: Media) -> str:
    with pytest.raises(UnusableMediaError) as caught:
        load(media)
    return caught.value.reason


def samples(data: bytes) -> np.ndarray:
    wave, rate = samples_of(data, "stored", 100.0)
    assert rate == 16_000
    return np.round(wave * 2**15).astype(int)


def test_recordings_are_stored_as_flac(tmp_path):
    levels = np.random.default_rng(1).integers(-(2**15), 2**15, 80_000).astype(np.int16)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(levels[:, None]))
    (stored,) = load(Media(path, kind="audio"))
    assert stored.startswith(b"fLaC")
    np.testing.assert_array_equal(samples(stored), levels)  # bit for bit at 16 kHz and 16 bit
    assert load(Media(data=path.read_bytes(), kind="audio")) == load(Media(data=stored, kind="audio")) == (stored,)
    np.testing.assert_array_equal(AudioProcessor().values(stored), AudioProcessor().values(path))
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(path, "a.wav")
    with tarfile.open(tmp_path / "all.tar") as archive:
        (member,) = archive.getmembers()
    assert load(Media(tmp_path / "all.tar", member.offset_data, member.size, kind="audio")) == (stored,)


def test_clips_are_cut_out_unless_the_file_is_the_clip():
    levels = np.random.default_rng(2).integers(-(2**15), 2**15, 80_000).astype(np.int16)
    data = wav(levels[:, None])

    def cut(start: float, end: float | None) -> np.ndarray:
        return samples(load(Media(data=data, kind="audio", start=start, end=end))[0])

    np.testing.assert_array_equal(cut(1.0, 3.0), levels[16_000:48_000])
    np.testing.assert_array_equal(cut(3.5, None), levels[56_000:])
    np.testing.assert_array_equal(cut(0.0, 2.0), levels[:32_000])
    np.testing.assert_array_equal(cut(40.0, 44.5), levels[:72_000])  # within 1 s
    assert reason(Media(data=data, kind="audio", start=40.0, end=42.0)) == "clip outside of the recording"


def test_long_and_loud_recordings_are_cut_off():
    long = np.tile(np.float32([0.5, -2.0]), (8_000 * 16,))
    stored = audio.encode(np.float32([0.5, -2.0, 2.0] * 200))
    np.testing.assert_array_equal(samples(stored)[:3], [2**14, -(2**15), 2**15 - 1])
    (whole,) = load(Media(data=wav(np.repeat(long, 2)[:, None]), kind="audio"))
    assert len(samples(whole)) == 31 * 16_000


def test_the_sound_of_a_film_and_films_without_any(tmp_path):
    wave = np.stack([chirp(1.5, 16_000)] * 2)
    film = tmp_path / "a.mp4"
    film.write_bytes(sound("mp4", wave, 16_000))
    heard = samples(load(Media(film, kind="audio"))[0])
    assert np.corrcoef(heard[: wave.shape[1]], wave[0])[0, 1] > 0.99
    assert len(load(Media(film, kind="video"), 5)) == 5
    (tmp_path / "silent.avi").write_bytes(silent(tmp_path))
    assert reason(Media(tmp_path / "silent.avi", kind="audio")) == "no sound track"
    assert reason(Media(data=wav(np.ones((300, 1), np.int16)), kind="audio")) == "shorter than 25 ms"
    assert reason(Media(data=b"", kind="audio")) == "empty file"
    assert reason(Media(data=b"any bytes", kind="audio")) == "not a recording"
    assert reason(Media(tmp_path, kind="audio")) == reason(Media(kind="audio")) == "missing audio"


def silent(tmp_path) -> bytes:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "b.avi"), "w") as out:
        track = out.add_stream("mjpeg", rate=10)
        track.width, track.height, track.pix_fmt = 32, 32, "yuvj420p"
        out.mux(track.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        out.mux(track.encode(None))
    return (tmp_path / "b.avi").read_bytes()


def test_point_clouds_are_stored_as_npy(tmp_path):
    far = CLOUD + 4e6  # float32 alone would round these to quarters
    text = "\n".join(" ".join(map(repr, row)) for row in far.tolist())
    (tmp_path / "a.xyz").write_text(text)
    (stored,) = load(Media(tmp_path / "a.xyz", kind="points"))
    found = np.load(io.BytesIO(stored))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, centred(CLOUD), atol=1e-6)
    eight = PointProcessor(count=60)
    np.testing.assert_allclose(eight.values(stored), eight.values(tmp_path / "a.xyz"), atol=1e-6)
    many = np.random.default_rng(3).standard_normal((20_000, 3))
    (stored,) = load(Media(data=points.encode(many), kind="points"))
    assert np.load(io.BytesIO(stored)).shape == (points.MOST, 3)
    assert load(Media(data=points.encode(many), kind="points")) == (stored,)
    assert reason(Media(data=b"any bytes", kind="points")) == "not a point cloud"
    assert reason(Media(tmp_path / "gone", kind="points")) == "missing points"
    assert reason(Media(data=points.encode(np.full((3, 3), np.nan)), kind="points")) == "no points"


def test_a_set_of_films_with_their_sound_counts_those_without(tmp_path):
    """Each row asks for a film's frames and its sound, or for a cloud."""
    (tmp_path / "a.mp4").write_bytes(sound("mp4", np.stack([chirp(1.0, 16_000)] * 2), 16_000))
    (tmp_path / "silent.avi").write_bytes(silent(tmp_path))
    (tmp_path / "cloud.npy").write_bytes(points.encode(CLOUD))
    (tmp_path / "torn.npy").write_bytes(points.encode(CLOUD)[:-9])

    def rows():
        for film in ("a.mp4", "silent.avi", "gone.mp4"):
            media = tuple(Media(tmp_path / film, kind=kind) for kind in ("video", "audio"))
            yield draft(film, f"own/train/{film}", media)
        for cloud in ("cloud.npy", "torn.npy"):
            yield draft(cloud, f"own/train/{cloud}", (Media(tmp_path / cloud, kind="points"),))
        return 5

    report = shards.write(tmp_path / "out", "own", {"train": rows}, shards.Options(), 1).splits["train"]
    assert report.reasons == {"no sound track": 1, "missing video": 1, "truncated or corrupt point cloud": 1}
    records = list(open_set(str(tmp_path / "out"), "own", "train"))
    assert [record.kinds for record in records] == [("frame",) * 4 + ("audio",), ("points",)]
    assert AudioProcessor().values(records[0].media[4].data).shape == (2, 512, 128)
    np.testing.assert_allclose(PointProcessor(40).values(records[1].media[0].data), centred(CLOUD), atol=1e-6)
