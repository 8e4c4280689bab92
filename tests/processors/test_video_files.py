"""A video's file stands for its frames in a public call."""

import numpy as np
import pytest
import toys
from media_files import chirp, sound

from instructblip_jax.processor import Processor
from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.interleaved import InterleavedProcessor
from instructblip_jax.processors.video import frames_of, is_video, middles


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds of 20 frames; frame n has the grey 20 + 10 n."""
    path = tmp_path_factory.mktemp("film") / "a.mkv"
    path.write_bytes(sound("mkv", np.stack([chirp(2.0, 16_000)] * 2), 16_000))
    return path


def test_frames_are_the_middles_of_equal_parts(film):
    assert middles(20, 5) == [2, 6, 10, 14, 18]
    assert middles(3, 5) == [0, 0, 1, 2, 2]
    for frames in (1, 5, 30):
        found = [np.asarray(picture) for picture in frames_of(film, frames)]
        want = [20 + 10 * (number % 20) for number in middles(20, frames)]
        assert [picture.mean() for picture in found] == pytest.approx(want, abs=4)
        assert {picture.shape for picture in found} == {(32, 32, 3)}
    assert is_video(film.read_bytes())
    with pytest.raises(UnusableMediaError, match=r"a film: .*fetch it again: truncated or corrupt video"):
        frames_of(film.read_bytes()[:200], 5, "a film")
    with pytest.raises(UnusableMediaError, match="convert it to MP4: not a video"):
        frames_of(b"GIF89a", 5)


def test_a_file_is_what_its_frames_are(film):
    processor = Processor.from_pretrained(toys.GOLDENS / "llama")
    frames = frames_of(film, 4)
    want = processor([frames, frames], ["what", "when"])
    for given in ([film, str(film)], [film.read_bytes()] * 2):
        found = processor(given, ["what", "when"])
        assert found.keys() == want.keys()
        for key, x in want.items():
            np.testing.assert_array_equal(found[key], x)
    assert found["pixel_values"].shape[:2] == (2, 4)
    rows = processor.rows(film, 3, share=True)
    assert rows[0] is rows[1] is rows[2]  # read once, and encoded once
    rows = processor.rows([film, film], 2)
    assert rows[0] is rows[1]


def test_systems_whose_lists_are_pictures_take_no_videos(film):
    assert InterleavedProcessor.FRAMES == 0
    assert not is_video(film.parent)
    assert not is_video(film.parent / "gone.mp4")
    assert not is_video(b"")
