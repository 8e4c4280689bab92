"""Sound and points beside pictures, from files to batches; and the random augmentation of media."""

import copy
import io

import media_files
import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data import loader, prepared
from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.record import Record
from instructblip_jax.datasets.digits.templates import TEMPLATES
from instructblip_jax.datasets.draft import Draft, Media
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.processors.audio import samples_of
from instructblip_jax.processors.instructblip import InstructBlipProcessor

LENGTHS = {"instruction_lengths": (40,), "response_lengths": (24,)}


class Hearing(InstructBlipProcessor):
    """Reads recordings beside pictures: the first sample of each."""

    def media(self, media, name=None, rng=None):
        heard = [level(content) for kind, content in media if kind == "audio"]
        pictures = [(kind, content) for kind, content in media if kind != "audio"]
        arrays = super().media(pictures, name) if pictures or not heard else {}
        return arrays | ({"audio": np.array(heard, np.float32)} if heard else {})


class Augmenting(InstructBlipProcessor):
    """Adds one random number to all pixels of a row."""

    augments = True

    def media(self, media, name=None, rng=None):
        arrays = super().media(media, name)
        return arrays if rng is None else {key: array + np.float32(rng.random()) for key, array in arrays.items()}


def as_a(kind, processor):
    other = copy.copy(processor)
    other.__class__ = kind
    return other


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def level(data: bytes) -> float:
    """The first sample of a recording."""
    return float(samples_of(data, "a recording", 1.0)[0][0])


def steady(number: int) -> bytes:
    """A recording of 50 ms at one level."""
    return media_files.wav(np.full((800, 1), number, np.int16))


def cloud() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.eye(3, dtype=np.float32))
    return buffer.getvalue()


MEDIA = {
    "seen": (Media(data=png(0)),),
    "heard": (Media(data=steady(1000), kind="audio"),),
    "both": (Media(data=steady(2000), kind="audio"), Media(data=png(1))),
    "twice": (Media(data=steady(3000), kind="audio"), Media(data=png(2))),
    "points": (Media(data=cloud(), kind="points"),),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Two splits: one with records of several kinds of media and a broken one, one with a point cloud."""

    def rows(names):
        for name in names:
            record = Record(f"own/{name}", "own", "train", "vqa", (), {}, ("1",), instruction="which ?", parts=(0, "x"))
            yield Draft(f"f:{name}", record, MEDIA[name])
        yield Draft("f:empty", record, (Media(data=b"", kind="audio"),))

    out = tmp_path_factory.mktemp("own")
    splits = {"train": lambda: rows(["seen", "heard", "both", "twice"]), "points": lambda: rows(["points"])}
    report = shards.write(out, "own", splits, shards.Options(), 1)
    assert report.splits["train"].by_kinds == {"audio": 1, "audio image": 2, "image": 1}
    assert report.splits["train"].reasons == {"empty file": 1}
    notes = [note for note in report.notes() if "batches" in note]
    assert notes == [
        "train: 1 row shows 1 audio, 1 row shows 1 picture, 2 rows show 1 audio and 1 picture; "
        "each gets batches of its own"
    ]
    return out


def test_media_of_all_kinds_are_read_back(out):
    def content(kind, data):
        return (kind, round(level(data) * 2**15)) if kind == "audio" else (kind, data)

    train = prepared.open_set(out, "own", "train")
    assert {record.uid: [content(*medium) for medium in record.media] for record in train} == {
        f"own/{name}": [content(one.kind, one.data) for one in MEDIA[name]]
        for name in ("seen", "heard", "both", "twice")
    }
    assert all(record.parts == (0, "x") for record in train)
    (record,) = prepared.open_set(out, "own", "points")
    assert [medium.kind for medium in record.media] == ["points"]
    assert np.load(io.BytesIO(record.media[0].data)).shape == (3, 3)


def test_rows_of_a_training_batch_show_the_same_kinds(out, processor):
    own = {"own": prepared.open_set(out, "own", "train")}
    batches = training_batches(own, {"own": 1.0}, as_a(Hearing, processor), {}, batch_size=2, seed=0, **LENGTHS)
    shown, drawn = set(), []
    for _ in range(16):
        batch = next(batches)
        keys = tuple(key for key in ("audio", "pixel_values") if key in batch)
        shown.add((keys, frozenset(batch["uid"])))
        drawn += batch["uid"]
    assert {keys: uids for keys, uids in shown if keys != ("audio", "pixel_values")} == {
        ("audio",): {"own/heard"},
        ("pixel_values",): {"own/seen"},
    }
    assert set().union(*(uids for keys, uids in shown if len(keys) == 2)) == {"own/both", "own/twice"}
    assert {uid: drawn.count(uid) for uid in set(drawn)} == {f"own/{name}": 8 for name in MEDIA if name != "points"}


def test_rows_of_an_evaluation_batch_show_the_same_kinds(out, processor):
    source = prepared.open_set(out, "own", "train")
    batches = evaluation_batches(source, as_a(Hearing, processor), {}, batch_size=4, instruction_lengths=(24,))
    found = [(sorted(batch.media), [record.uid for record in batch.records]) for batch in batches]
    assert found == [
        (["pixel_values", "pixel_values_scale"], ["own/seen"]),
        (["audio"], ["own/heard"]),
        (["audio", "pixel_values", "pixel_values_scale"], ["own/both", "own/twice"]),
    ]


def test_media_that_a_system_does_not_read_are_named(out, processor):
    source = prepared.open_set(out, "own", "points")
    with pytest.raises(ValueError, match="own/points: has points; this system reads image, frame"):
        next(training_batches({"own": source}, {"own": 1.0}, processor, {}, batch_size=2, seed=0, **LENGTHS))


@pytest.fixture(scope="module")
def augmented(sources, processor):
    def make(seed=3, kind=Augmenting, **options):
        one = {"count": sources["count"]}
        return training_batches(
            one, {"count": 1.0}, as_a(kind, processor), TEMPLATES, batch_size=4, seed=seed, **LENGTHS, **options
        )

    return make


@pytest.mark.parametrize("kept", [1024, 0], ids=["kept media", "media read again"])
def test_a_resumed_run_sees_the_same_augmentation(augmented, kept, monkeypatch):
    monkeypatch.setattr(loader, "KEPT", kept)
    whole, plain = augmented(), augmented(kind=InstructBlipProcessor)
    wanted, fixed = [next(whole) for _ in range(12)], [next(plain) for _ in range(12)]
    for cut in (1, 5, 10):
        first, second = augmented(), augmented()
        for _ in range(cut):
            next(first)
        second.set_state(first.get_state())
        for want in wanted[cut:]:
            got = next(second)
            assert got["uid"] == want["uid"]
            np.testing.assert_array_equal(got["pixel_values"], want["pixel_values"])
    # It is drawn for each row at each visit, and nothing else depends on it.
    added: dict[str, list[float]] = {}
    for want, bare in zip(wanted, fixed, strict=True):
        np.testing.assert_array_equal(want["input_ids"], bare["input_ids"])
        for uid, pixels, without in zip(want["uid"], want["pixel_values"], bare["pixel_values"], strict=True):
            added.setdefault(uid, []).append(round(float((pixels - without).mean()), 4))
    assert {len(visits) for visits in added.values()} <= {3, 4, 5}
    drawn = [number for visits in added.values() for number in visits]
    assert len(set(drawn)) == len(drawn)


def test_hosts_and_seeds_of_augmentation(augmented):
    whole, part, other = augmented(), augmented(own=np.array([1, 2])), augmented(seed=4)
    for _ in range(3):
        want = next(whole)
        np.testing.assert_array_equal(next(part)["pixel_values"], want["pixel_values"][1:3])
    assert not np.array_equal(next(other)["pixel_values"], next(augmented())["pixel_values"])


def test_evaluation_augments_nothing(sources, processor):
    options = {"batch_size": 4, "instruction_lengths": (24,)}
    got = next(evaluation_batches(sources["count"], as_a(Augmenting, processor), TEMPLATES, **options))
    want = next(evaluation_batches(sources["count"], processor, TEMPLATES, **options))
    np.testing.assert_array_equal(got.media["pixel_values"], want.media["pixel_values"])
