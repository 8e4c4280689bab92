"""Image features computed once: the same losses and gradients as from pixels, and never those of another tower."""

import copy
import dataclasses
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
import toys

import instructblip_jax as ib
from instructblip_jax import digests
from instructblip_jax.data import loader, prepared
from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.record import Medium, Record, key_of
from instructblip_jax.datasets.digits.templates import TEMPLATES
from instructblip_jax.datasets.prepare.write import write
from instructblip_jax.features import cache as feature_cache
from instructblip_jax.features import compute
from instructblip_jax.features.cache import FeatureCache, FeatureWriter
from instructblip_jax.features.pictures import BLANK, KEY, Pictures, pictures_of
from instructblip_jax.pixels import numbers
from instructblip_jax.systems.build import merge

BATCH = 8
SHAPE = (10, 24)  # (24 / 8) ** 2 patches and the class token
PICTURES = 48 + 24 + 12
IMAGE = ("image",)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return toys.write_model(tmp_path_factory.mktemp("towers") / "model")


@pytest.fixture(scope="module")
def model(directory):
    return ib.InstructBlip.from_pretrained(directory, dtype="float32")


@pytest.fixture(scope="module")
def cached(model, processor, sources, tmp_path_factory):
    """The features of all sets, in a directory of the module's."""
    return compute.prepare(model, processor, sources, tmp_path_factory.mktemp("cache"), batch_size=BATCH)


@pytest.fixture(scope="module")
def stream(sources, processor):
    def make(cached=None, **options):
        own = options.pop("sources", sources)
        shares = dict.fromkeys(own, 1 / len(own))
        lengths = {"instruction_lengths": (40,), "response_lengths": (24,)}
        return training_batches(
            own, shares, processor, TEMPLATES, batch_size=BATCH, seed=1, features=cached, **lengths, **options
        )

    return make


def tower(model, pixels):
    def run(x):
        return merge(model.graph, model.train, model.frozen).features({"pixel_values": x})["pixel_values"]

    return np.asarray(jax.jit(run)(pixels))


def arrays(batch):
    return {name: x for name, x in batch.items() if name not in ("set", "passed", "uid")}


def test_batches_bring_features_for_pixels_and_are_else_the_same(model, cached, stream, monkeypatch):
    seen = stream()
    wanted = [next(seen) for _ in range(6)]
    monkeypatch.setattr(loader, "media_of", None)  # no picture is decoded
    stored = stream(cached)
    for want in wanted:
        got = next(stored)
        assert got.keys() - want.keys() == {"image_features"}
        assert want.keys() - got.keys() == {"pixel_values", "pixel_values_scale"}
        for name in got.keys() & want.keys():
            np.testing.assert_array_equal(got[name], want[name])
        assert got["image_features"].dtype == np.float32
        np.testing.assert_allclose(
            got["image_features"], tower(model, numbers(want, "pixel_values")), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("trainable", ["qformer", "original"])
def test_losses_and_gradients_are_those_of_pixels(directory, cached, stream, trainable):
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32", trainable=trainable)
    seen, stored = stream(), stream(cached)
    for _ in range(2):
        want_loss, want = ib.gradients(model, arrays(next(seen)))
        got_loss, got = ib.gradients(model, arrays(next(stored)))
        np.testing.assert_allclose(got_loss, want_loss, rtol=1e-5)
        assert got.keys() == want.keys()
        assert any("post_layernorm" in name for name in got) == (trainable == "original")
        floor = 1e-7 * max(np.abs(x).max() for x in want.values())  # keys' biases have no gradient in truth
        for name in got:
            atol = 2e-5 * np.abs(want[name]).max() + floor
            np.testing.assert_allclose(got[name], want[name], rtol=2e-4, atol=atol)


def test_bfloat16_features_are_stored_as_the_tower_computes_them(directory, processor, sources, tmp_path):
    model = ib.InstructBlip.from_pretrained(directory, dtype="bfloat16")
    own = {"count": sources["count"]}
    cached = compute.prepare(model, processor, own, tmp_path, batch_size=4)
    assert cached.caches["pixel_values"].dtype == jax.numpy.bfloat16
    pictures = [sources["count"][n].images[0] for n in range(4)]
    want = tower(model, np.stack([processor.image(picture) for picture in pictures]))
    got = cached([("count", n) for n in range(4)], IMAGE)["pixel_values"]
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.view(np.uint16), want.view(np.uint16))


def test_a_cache_of_another_tower_is_never_read(directory, model, processor, sources, tmp_path):
    own = {"count": sources["count"]}
    other = toys.write_model(tmp_path / "other", seed=1)
    smaller = copy.copy(processor)
    smaller.image = dataclasses.replace(processor.image, mean=(0.5, 0.5, 0.5))
    models = [
        model,
        ib.InstructBlip.from_pretrained(other, dtype="float32"),
        ib.InstructBlip.from_pretrained(directory, dtype="bfloat16"),
    ]
    others = (smaller, processor.resizing("fast"))
    keys = [compute.tower_key(one, processor) for one in models] + [compute.tower_key(model, one) for one in others]
    assert len(set(keys)) == len(keys)
    original = ib.InstructBlip.from_pretrained(directory, dtype="float32", trainable="original")
    assert compute.tower_key(original, processor) == keys[0]  # the norm that trains is no part of it
    found = [compute.prepare(one, processor, own, tmp_path / "cache", batch_size=4) for one in models[:2]]
    pixels = np.stack([processor.image(sources["count"][n].images[0]) for n in range(4)])
    for one, cached in zip(models, found, strict=False):
        got = cached([("count", n) for n in range(4)], IMAGE)["pixel_values"]
        np.testing.assert_allclose(got, tower(one, pixels), rtol=1e-5, atol=1e-6)


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
SIZES += ("hidden_act", "layer_norm_eps")
"""Fields of a vision tower's configuration when the first caches were written."""


def test_the_key_of_a_cache_is_that_of_earlier_versions(model, processor):
    """So that features which were computed once are found again."""
    tower = {
        path: x for path, x in model.frozen.items() if path.startswith("vit/") and not path.startswith("vit/post_norm/")
    }
    weights = digests.of_devices(tower)
    content = {
        "version": 1,
        "weights": {path: [weights[path], str(x.dtype), x.shape] for path, x in sorted(tower.items())},
        "vision": {name: getattr(model.config.vision, name) for name in SIZES},
        "image": dataclasses.asdict(processor.image),
    }
    want = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
    assert compute.tower_key(model, processor) == want


def test_a_system_of_several_media_has_no_cache(model, processor, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(type(model.config), "media_keys", ("pixel_values", "audio"))
    with pytest.raises(ValueError, match=r"config\.data\.features: the features of this system cannot be cached"):
        compute.prepare(model, processor, sources, tmp_path, batch_size=4)


def test_a_killed_run_keeps_its_finished_shards(model, processor, sources, cached, tmp_path, monkeypatch, capsys):
    add, seen = FeatureWriter.add, []

    def dying(self, keys, rows):
        seen.append(len(keys))
        if len(seen) == 6:
            raise KeyboardInterrupt
        add(self, keys, rows)

    options = {"batch_size": BATCH, "shard_bytes": 12 * 10 * 24 * 4}
    monkeypatch.setattr(FeatureWriter, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        compute.prepare(model, processor, sources, tmp_path, **options)
    assert f"{PICTURES + 1} pictures to compute, 960 bytes each" in capsys.readouterr().out
    monkeypatch.undo()
    again = compute.prepare(model, processor, sources, tmp_path, **options)
    kept = 5 * BATCH // 12 * 12
    assert f"{PICTURES + 1 - kept} pictures to compute" in capsys.readouterr().out
    assert len(again.caches["pixel_values"].keys) == PICTURES + 1
    assert not [*again.caches["pixel_values"].directory.glob("*.part")]
    places = [("digit_at", n) for n in range(24)]
    np.testing.assert_allclose(
        again(places, IMAGE)["pixel_values"], cached(places, IMAGE)["pixel_values"], rtol=1e-5, atol=1e-6
    )
    # What is there is neither computed nor written again.
    monkeypatch.setattr(compute._Tower, "compute", None)
    monkeypatch.setattr(loader.Source, "__getitem__", None)
    compute.prepare(model, processor, sources, tmp_path, **options)
    assert capsys.readouterr().out == ""


def test_blank_images_need_one_entry(model, processor, sources, stream, tmp_path):
    cached = compute.prepare(model, processor, sources, tmp_path, batch_size=4, blank_image=True)
    assert len(cached.caches["pixel_values"].keys) == 1
    seen, stored = stream(blank_image=True), stream(cached, blank_image=True)
    want, got = next(seen), next(stored)
    np.testing.assert_array_equal(got["input_ids"], want["input_ids"])
    mean = tower(model, np.zeros((1, 24, 24, 3), np.float32))
    np.testing.assert_allclose(got["image_features"], np.repeat(mean, BATCH, axis=0), rtol=1e-5, atol=1e-6)


def test_several_pictures_a_record_come_in_their_order(model, processor, sources, tmp_path):
    """As the loader shows pixels: the last stands for missing ones, the mean colour for none at all."""
    data = [sources["count"][n].images[0] for n in range(4)]
    keys = np.frombuffer(b"".join(map(key_of, data)), KEY)
    pictures = Pictures(keys, np.array([0, 3, 3, 4]))
    assert [column.tolist() for column in pictures.places] == [[0, 0, 0, 2], [0, 1, 2, 0]]
    cached = compute.prepare(model, processor, {"count": sources["count"]}, tmp_path, batch_size=4)
    cached = compute.Features(cached.caches, {"own": pictures}, processor)
    got = cached([("own", n) for n in range(3)], IMAGE * 2)["pixel_values"]
    shown = [(data[0], data[1]), (None, None), (data[3], data[3])]
    zeros = np.zeros((24, 24, 3), np.float32)
    want = [[zeros if one is None else processor.image(one) for one in row] for row in shown]
    pixels = np.array(want)
    assert got.shape == (3, 2, *SHAPE)
    np.testing.assert_allclose(got.reshape(6, *SHAPE), tower(model, pixels.reshape(6, 24, 24, 3)), rtol=1e-5, atol=1e-6)
    text = processor.pad([processor.encode("which digit ?", "1")] * 3)
    want_loss, _ = ib.loss(model, {"pixel_values": pixels, **text})
    got_loss, _ = ib.loss(model, {"image_features": got, **text})
    np.testing.assert_allclose(got_loss, want_loss, rtol=1e-5)


def test_the_pictures_of_a_set_are_found_once(sources, tmp_path, monkeypatch):
    seen = []
    first = pictures_of(sources["digit_at"], tmp_path, seen.append)
    assert sum(seen) == len(sources["digit_at"]) == len(first.keys)
    want = [key_of(sources["digit_at"][n].images[0]) for n in range(24)]
    assert first.keys.tobytes() == b"".join(want)
    monkeypatch.setattr(loader.Source, "__getitem__", None)
    again = pictures_of(sources["digit_at"], tmp_path)
    np.testing.assert_array_equal(again.keys, first.keys)


def test_any_key_is_found_zeros_at_its_ends_too(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (40, 16), np.uint8)
    raw[::3, 12:] = 0
    raw[1::3, :2] = 0
    keys = np.frombuffer(raw.tobytes(), KEY)
    rows = rng.standard_normal((40, 2, 3)).astype(np.float32)
    writer = FeatureWriter(tmp_path, 7)
    writer.add(keys, rows)
    writer.close()
    cache = FeatureCache(tmp_path, (2, 3), np.dtype(np.float32))
    order = rng.permutation(40)
    np.testing.assert_array_equal(cache.read(keys[order].reshape(8, 5)), rows[order].reshape(8, 5, 2, 3))
    assert not cache.holds(BLANK).any()
    with pytest.raises(KeyError, match="no features"):
        cache.read(BLANK)


def test_damage_names_the_file(cached, tmp_path):
    copy = shutil.copytree(cached.caches["pixel_values"].directory, tmp_path / "copy")
    path = copy / "features-000000.array_record"
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    cache = FeatureCache(copy, SHAPE, np.dtype(np.float32))
    with pytest.raises(ValueError, match=r"features-000000.*remove"):
        cache.read(np.asarray(cache.keys))
    path.unlink()
    assert not len(FeatureCache(copy, SHAPE, np.dtype(np.float32)).keys)


def test_an_index_that_lies_names_the_file_and_the_row(tmp_path):
    """Features of another picture are never returned."""
    keys = np.frombuffer(bytes(range(48)), KEY)
    writer = FeatureWriter(tmp_path, 8)
    writer.add(keys, np.arange(6, dtype=np.float32).reshape(3, 2))
    writer.close()
    cache = FeatureCache(tmp_path, (2,), np.dtype(np.float32))
    np.testing.assert_array_equal(cache.read(keys), [[0, 1], [2, 3], [4, 5]])
    (places,) = tmp_path.glob("index-*.places.npy")
    np.save(places, np.load(places)[::-1])
    cache = FeatureCache(tmp_path, (2,), np.dtype(np.float32))
    with pytest.raises(ValueError, match=r"features-000000.*: row 2 is not what the index says; remove the file"):
        cache.read(keys[:1])


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(self, record):
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(
        feature_cache, "ArrayRecordWriter", type("Full", (), {"__init__": lambda *_: None, "write": full})
    )
    with pytest.raises(OSError, match=r"features-000000\.array_record: No space left on device"):
        FeatureWriter(tmp_path, 8).add(np.frombuffer(bytes(16), KEY), np.zeros((1, 2), np.float32))
    assert not len(FeatureCache(tmp_path, (2,), np.dtype(np.float32)).keys)


def test_media_that_are_drawn_anew_are_not_cached(model, processor, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(type(processor), "augments", True)
    with pytest.raises(ValueError, match=r"config\.data\.features: .* at each visit"):
        compute.prepare(model, processor, sources, tmp_path, batch_size=BATCH)


def test_rows_of_several_pictures_bring_as_many_features_as_pixels(model, processor, sources, stream, tmp_path):
    """One, two or no picture in a row, or frames: in batches of their own, with features as with pixels."""
    images = [record.images[0] for record in sources["count"]]
    shown = [images[:1], images[1:3], [], images[3:5], images[5:6], images[6:9]]
    own = [
        Record(
            f"own/{n}",
            "own",
            "train",
            "vqa",
            tuple(Medium("image", one) for one in pictures),
            {},
            (str(n),),
            instruction="which digit ?",
        )
        for n, pictures in enumerate(shown)
    ]
    write(tmp_path / "sets", "own", {"train": lambda: iter(own)})
    mixed = {"own": prepared.open_set(tmp_path / "sets", "own", "train")}
    cached = compute.prepare(model, processor, mixed, tmp_path / "cache", batch_size=BATCH)
    seen, stored, counts = stream(sources=mixed), stream(cached, sources=mixed), set()
    for _ in range(24):
        want, got = next(seen), next(stored)
        assert got["uid"] == want["uid"]
        pixels = numbers(want, "pixel_values")
        number = pixels.shape[1] if pixels.ndim == 5 else 1
        assert {max(1, len(own[int(uid.split("/")[1])].images)) for uid in got["uid"]} == {number}
        tokens = tower(model, pixels.reshape(-1, *pixels.shape[-3:])).reshape(*pixels.shape[:-3], *SHAPE)
        np.testing.assert_allclose(got["image_features"], tokens, rtol=1e-5, atol=1e-6)
        counts.add(number)
    assert counts == {1, 2, 3}


def test_places_that_cannot_hold_a_cache_are_refused(model, processor, sources, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"data\.features is gs://"):
        compute.prepare(model, processor, sources, "gs://bucket/cache", batch_size=4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="do not fit"):
        compute.prepare(model, processor, sources, tmp_path, batch_size=4)
