"""Pictures and videos become encoded pictures that decode, or one of few reasons."""

import os
import resource
import tarfile
import time

import numpy as np
import pytest
from PIL import Image
from preparing import encoded, noise

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.media.frames import LONGER, sample
from instructblip_jax.datasets.media.load import Recent, load
from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.image import open_image

NEEDS = "video needs PyAV: pip install av"


def reason(media: Media) -> str:
    with pytest.raises(UnusableMediaError) as caught:
        load(media)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def header_only(width: int, height: int) -> bytes:
    """A PNG that claims to be so large."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_picture_is_kept_as_it_is_whatever_its_name(tmp_path):
    data = encoded(noise(1), "PNG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert load(Media(tmp_path / "a.jpg")) == (data,)
    assert load(Media(data=data)) == (data,)


def test_each_kind_of_unusable_picture_has_its_reason(tmp_path):
    good = encoded(noise(1, 64, 64), "JPEG")
    contents = {
        "empty file": b"",
        "not a picture": b"<html>404</html>",
        "truncated or corrupt picture": good[: len(good) // 2],
        "too large": header_only(50_000, 50_000),
        "unsupported pixel type": encoded(Image.new("F", (4, 4)), "TIFF"),
    }
    for want, content in contents.items():
        path = tmp_path / want.replace(" ", "_")
        path.write_bytes(content)
        assert reason(Media(path)) == want
        assert reason(Media(data=content)) == want
    assert reason(Media(tmp_path / "gone.jpg")) == "missing picture"
    assert reason(Media(tmp_path)) == "missing picture"
    assert reason(Media()) == "missing picture"
    for kind, noun in (("image", "picture"), ("video", "video"), ("audio", "audio")):
        assert reason(Media(tmp_path / "a\0b", kind=kind)) == f"missing {noun}"
    os.mkfifo(tmp_path / "pipe")
    assert reason(Media(tmp_path / "pipe")) == "missing picture"  # and is not waited for
    with (tmp_path / "large").open("wb") as file:
        file.truncate((50 << 20) + 1)
    assert reason(Media(tmp_path / "large")) == "too large"
    assert reason(Media(tmp_path / "gone.mp4", kind="video")) == "missing video"
    assert reason(Media(tmp_path / "not_a_picture", kind="video")) == "not a video"


def test_members_of_archives_are_read_in_place(tmp_path):
    gif = encoded(noise(0), "GIF", save_all=True, append_images=[noise(1), noise(2)])
    for name, data in (("a.png", encoded(noise(3))), ("b.gif", gif)):
        (tmp_path / name).write_bytes(data)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in ("a.png", "b.gif"):
            archive.add(tmp_path / name, name)
    with tarfile.open(tmp_path / "all.tar") as archive:
        one, two = archive.getmembers()
    assert load(Media(tmp_path / "all.tar", one.offset_data, one.size)) == (encoded(noise(3)),)
    in_place = load(Media(tmp_path / "all.tar", two.offset_data, two.size, kind="video"))
    assert in_place == load(Media(data=gif, kind="video"))
    assert reason(Media(tmp_path / "all.tar", one.offset_data, 10**6)) == "truncated archive"


def test_frames_are_taken_uniformly_and_the_last_is_repeated():
    assert sample(10, 4) == [0, 2, 5, 7]
    assert sample(4, 4) == [0, 1, 2, 3]
    assert sample(3, 4) == [0, 1, 2, 2]
    assert sample(1, 4) == [0, 0, 0, 0]


GREYS = list(range(20, 240, 20))


def greys(pictures) -> list[int]:
    return [round(float(np.asarray(open_image(picture)).mean()) / 20) * 20 for picture in pictures]


def flat(grey: int, size=(32, 32)) -> Image.Image:
    return Image.new("RGB", size, (grey,) * 3)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_animated_pictures_are_videos(kind, options):
    frames = [flat(grey) for grey in GREYS]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=1000, **options)
    assert greys(load(Media(data=data, kind="video"))) == [GREYS[n] for n in sample(len(GREYS), 4)]
    clip = Media(data=data, kind="video", start=4.0, end=8.0)
    assert greys(load(clip)) == [GREYS[n] for n in (4, 5, 6, 7)]
    assert greys(load(Media(data=data, kind="video", start=40.0, end=50.9))) == greys(
        load(Media(data=data, kind="video"))
    )
    assert reason(Media(data=data, kind="video", start=40.0, end=44.0)) == "clip outside of the video"
    assert greys(load(Media(data=data))) == [20]  # of a picture the first frame counts
    assert LONGER < 4


def test_a_folder_of_numbered_frames_is_a_video_in_their_order(tmp_path):
    for number in range(12):
        (tmp_path / f"frame_{number}.jpg").write_bytes(encoded(flat(number * 20), "JPEG"))
    (tmp_path / "readme.txt").write_text("none")
    assert greys(load(Media(tmp_path, kind="video"))) == [0, 60, 120, 180]
    assert load(Media(tmp_path, kind="video"))[1] == (tmp_path / "frame_3.jpg").read_bytes()
    (tmp_path / "frame_6.jpg").write_bytes(b"")
    assert reason(Media(tmp_path, kind="video")) == "empty file"
    (tmp_path / "none").mkdir()
    assert reason(Media(tmp_path / "none", kind="video")) == "no frames"


def test_recent_pictures_are_read_once(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(1)))
    recent = Recent()
    first = recent(Media(tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()
    assert recent(Media(tmp_path / "a.png")) == first
    for number in range(16):
        (tmp_path / f"{number}.png").write_bytes(encoded(noise(number)))
        recent(Media(tmp_path / f"{number}.png"))
    with pytest.raises(UnusableMediaError):
        recent(Media(tmp_path / "a.png"))


# Video files


def film(path, codec: str, count: int = 300, rate: int = 10, size=(64, 64)) -> bytes:
    """A film whose frames grow lighter: the n-th of ``count`` has about grey 220 n / count + 20."""
    av = pytest.importorskip("av", reason="video files need PyAV")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            grey = 20 + number * 220 // count
            for packet in stream.encode(av.VideoFrame.from_image(flat(grey, size))):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "mjpeg"), ("a.mp4", "mpeg4"), ("a.mp4", "libx264"), ("a.webm", "libvpx")]
)
def test_video_files_are_sampled_by_number_and_by_time(tmp_path, name, codec):
    film(tmp_path / name, codec)
    for media, numbers in (
        (Media(tmp_path / name, kind="video"), (0, 75, 150, 225)),
        (Media(tmp_path / name, kind="video", start=10.0, end=14.0), (100, 110, 120, 130)),
        (Media(data=(tmp_path / name).read_bytes(), kind="video", start=20.0), (200, 225, 250, 275)),
    ):
        means = [np.asarray(open_image(picture)).mean() for picture in load(media)]
        assert means == pytest.approx([20 + number * 220 / 300 for number in numbers], abs=5)
    assert reason(Media(tmp_path / name, kind="video", start=40.0, end=50.0)) == "clip outside of the video"


def test_short_and_broken_video_files(tmp_path):
    data = film(tmp_path / "a.mp4", "mpeg4", count=3)
    pictures = load(Media(data=data, kind="video"))
    assert pictures[2] == pictures[3] != pictures[1]
    assert reason(Media(data=data[:100], kind="video")) == "truncated or corrupt video"
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    assert reason(Media(data=playlist, kind="video")) == "not a video"


def test_without_pyav_the_reason_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert reason(Media(data=b"RIFF\0\0\0\0AVI LIST", kind="video")) == NEEDS


# Hostile files


def samples(tmp_path) -> list[tuple[bytes, str]]:
    made = [(encoded(noise(1, 40, 40), kind), "image") for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]
    frames = [noise(n, 40, 40) for n in range(5)]
    made += [
        (encoded(frames[0], kind, save_all=True, append_images=frames[1:]), "video") for kind in ("GIF", "PNG", "WEBP")
    ]
    try:
        import av  # noqa: F401
    except ImportError:
        return made
    return [
        *made,
        *((film(tmp_path / name, codec, 12), "video") for name, codec in (("a.avi", "mjpeg"), ("a.mp4", "mpeg4"))),
    ]


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_pictures_or_have_a_reason(tmp_path):
    """Bit flips, truncation, header edits: nothing else is raised, nothing hangs, nothing fills the memory."""
    rng = np.random.default_rng(5)
    reasons: dict[str, int] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    originals = samples(tmp_path)
    slowest = 0.0
    for number in range(264):
        data, kind = originals[number % len(originals)]
        mutated = bytearray(data)
        if number % 3 == 0:
            del mutated[int(rng.integers(1, len(data))) :]
        for at in rng.integers(0, len(mutated) if number % 3 == 1 else min(64, len(mutated)), 6):
            mutated[at] = rng.integers(256)
        began = time.process_time()
        try:
            pictures = load(Media(data=bytes(mutated), kind=kind))
            assert len(pictures) == (4 if kind == "video" else 1)
            said = "usable"
        except UnusableMediaError as error:
            said = error.reason
        slowest = max(slowest, time.process_time() - began)
        reasons[said] = reasons.get(said, 0) + 1
    assert 10 < reasons["usable"] < 200
    assert set(reasons) - {"usable"} <= {
        "truncated or corrupt picture",
        "truncated or corrupt video",
        "not a picture",
        "not a video",
        "no frames",
        "too large",
        "unknown video codec",
        "unsupported pixel type",
        NEEDS,
    }
    assert slowest < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 1_500_000  # kB: one picture of the limit
