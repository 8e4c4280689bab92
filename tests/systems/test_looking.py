"""`ib.look` against the attention that transformers returns on PyTorch, and against the model's own pass."""

import jax
import minis
import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax import looking
from instructblip_jax.models.layers import attention

QUESTION = "which digit is red ?"
GRID, PATCHES = 3, 9
READERS = {
    "flamingo": (3, PATCHES + 3),
    "idefics": (3, 1 + PATCHES + 3),
    "kosmos-1": (5, 1 + PATCHES + 5),
    "albef": (6, 1 + PATCHES),
    "blip": (7, 1 + PATCHES),
    "blip-captioning": (6, 1 + PATCHES),
    "blip-2-stage-1": (6, 1 + PATCHES),
    "x-instructblip": (3, 1 + PATCHES),
}
"""Mini -> the number of its readers, and of the keys of its last cross-attention: a class token, patches, latents."""
AFTER = {"flamingo": 3, "idefics": 3, "kosmos-1": 5}
"""The latents among the keys."""
LONG = [pytest.param(name, marks=pytest.mark.long) if name in (*minis.LONG, "blip") else name for name in READERS]


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 40, 3), np.uint8))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Name of a mini -> its model and processor."""
    found: dict = {}

    def load(kind: str):
        if kind not in found:
            directory = minis.write(tmp_path_factory.mktemp("look") / kind, kind)
            found[kind] = ib.from_pretrained(directory, dtype="float32"), ib.Processor.from_pretrained(directory)
        return found[kind]

    return load


@pytest.mark.parametrize("kind", ["instructblip", "blip-2", pytest.param("instructblipvideo", marks=pytest.mark.long)])
def test_the_last_cross_attention_equals_that_of_transformers(kind, loaded):
    reference = pytest.importorskip("reference", reason="the live reference is transformers on PyTorch")
    model, processor = loaded(kind)
    shown = [picture(1), picture(2)] if kind == "instructblipvideo" else picture()
    maps = ib.look(model, processor, shown, QUESTION)
    theirs = reference.load(model.directory)
    batch = processor([shown], [QUESTION])
    hidden = "qformer_input_ids" in batch
    for text in (True, False) if hidden else (False,):
        want = reference.cross_attention(theirs, batch, text=text)[..., 1:]  # the class token stands first
        got = maps if text or not hidden else ib.look(model, processor, shown)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5)
    if hidden:
        assert np.abs(maps - got).max() > 1e-3  # the instruction changes what is read


@pytest.fixture
def passes(monkeypatch):
    """The attention weights of every call that programs make which are compiled from here on, averaged over heads, as
    NumPy computes them from queries and keys."""
    found, plain = [], attention._plain

    def record(query, keys, bias):
        scores = np.einsum("bthk,bhsk->bhts", *(np.asarray(x, np.float64) for x in (query, keys)))
        weights = np.exp(scores + bias - (scores + bias).max(axis=-1, keepdims=True))
        found.append((weights / weights.sum(axis=-1, keepdims=True)).mean(axis=1))

    def recorded(query, parts, *others):
        keys, _, bias = parts[0]
        if len(parts) == 1 and keys.shape[1] == query.shape[2]:  # not the grouped heads of a language model
            jax.debug.callback(record, query, keys, 0.0 if bias is None else bias, ordered=True)
        return plain(query, parts, *others)

    monkeypatch.setattr(attention, "_plain", recorded)
    return found


@pytest.mark.parametrize("kind", LONG)
def test_maps_are_the_weights_of_the_models_own_pass(kind, passes, loaded):
    model, processor = loaded(kind)
    readers, keys = READERS[kind]
    media = model.encode(processor.media_of([picture()]))
    (row,) = processor.encoded([picture()], [QUESTION], [None])
    batch = processor.batch([row], processor.lengths(row)[0], training=False)
    model.match(media, batch) if kind in minis.PAIRS else model.prefill(media, batch)
    jax.effects_barrier()
    passes = list(passes)
    maps = ib.look(model, processor, picture(), QUESTION)
    assert maps.shape == (readers, GRID, GRID)
    first = keys - PATCHES - AFTER.get(kind, 0)
    own = [one[0] for one in passes if one.shape[1:] == (readers, keys)][-1][:, first : first + PATCHES]
    np.testing.assert_allclose(maps.reshape(readers, PATCHES), own, atol=1e-5)
    gated = [one[0] for one in passes if one.shape[2] == 3] if kind in minis.SEEING else []
    if gated:
        words = ib.look(model, processor, picture(), QUESTION, words=True).reshape(-1, PATCHES)
        blind = words.sum(axis=1) == 0
        first = int(blind.sum())
        assert 0 < first < 3
        assert blind[:first].all()
        np.testing.assert_allclose(words[first:], (gated[-1][: len(words)] @ own)[first:], atol=1e-5)
    assert np.ptp(maps.sum(axis=(1, 2))) > 0
    assert maps.sum(axis=(1, 2)).max() < 1


def test_a_video_has_maps_of_each_frame_that_share_one_attention(loaded):
    model, processor = loaded("flamingo")
    frames = processor.stack([processor.media([("frame", picture(n)) for n in range(2)])])
    maps = model.look(frames)["queries"]
    assert maps.shape == (1, 2, 3, GRID, GRID)
    assert maps.sum(axis=(1, 3, 4)).max() < 1


@pytest.mark.parametrize("kind", ["llava", "frozen"])
def test_a_system_without_queries_says_why(kind, loaded):
    with pytest.raises(ValueError, match="no query of this system attends to image patches"):
        ib.look(*loaded(kind), picture(), QUESTION)


def test_readers_that_there_are_not(loaded):
    with pytest.raises(ValueError, match="this system has maps of queries only"):
        ib.look(*loaded("instructblip"), picture(), QUESTION, words=True)
    with pytest.raises(ValueError, match="an instruction is needed"):
        ib.look(*loaded("albef"), picture())
    with pytest.raises(ValueError, match="several pictures"):
        ib.look(*loaded("flamingo"), [picture(1), picture(2)], QUESTION)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("instructblip", [looking.WITH, looking.WITHOUT]),
        ("blip-2", [looking.ALWAYS]),
        ("albef", [looking.WITH]),
    ],
)
def test_views_and_their_drawing(kind, names, loaded):
    model, processor = loaded(kind)
    views = looking.views(model, processor, picture(), QUESTION)
    assert list(views) == names
    small, large = (ib.overlay(processor, picture(), views, each=each, title=QUESTION) for each in (False, True))
    columns = len(names) if len(names) == 1 else len(names) + 1  # their difference
    assert small.width == 240 * (1 + columns) + 8 * columns
    assert large.size > small.size
    bright = ib.overlay(processor, picture(), np.eye(GRID, dtype=np.float32)[None])
    pixels = np.asarray(bright)[20:, 248:].astype(int)
    assert pixels[20, 20, 0] - pixels[20, 220, 0] > 60  # the first patch is read, and the last of its row is not
    with pytest.raises(ValueError, match="as returned by `look`"):
        ib.overlay(processor, picture(), np.zeros((3, 3)))
