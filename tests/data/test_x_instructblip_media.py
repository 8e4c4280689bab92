"""Sounds, clouds and videos of prepared sets: batches, cached features, and what a modality's training changes."""

import io
import wave
from functools import partial

import checkpoints
import jax
import numpy as np
import pytest
import x_toys
from PIL import Image
from safetensors.numpy import load_file

import instructblip_jax as ib
from instructblip_jax.convert.layouts.x_instructblip import trained_names
from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.prepared import open_set
from instructblip_jax.data.record import AUDIO, FRAME, IMAGE, POINTS, Medium, Record
from instructblip_jax.datasets.prepare.write import write
from instructblip_jax.features import compute
from instructblip_jax.mesh import put_batch
from instructblip_jax.run.open_data import TEMPLATE_SETS
from instructblip_jax.systems.build import merge
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

SETS = {"heard": (AUDIO,), "felt": (POINTS, IMAGE), "filmed": (FRAME, FRAME)}


def encoded(kind, rng):
    file = io.BytesIO()
    if kind == AUDIO:
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(16000)
            sound.writeframes(rng.integers(-9000, 9000, 5000).astype("<i2").tobytes())
    elif kind == POINTS:
        np.save(file, rng.standard_normal((40, 3)).astype(np.float32))
    else:
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file, "png")
    return file.getvalue()


def records(name):
    rng = np.random.default_rng(len(name))
    for n in range(4):
        media = tuple(Medium(kind, encoded(kind, rng)) for kind in SETS[name])
        yield Record(
            f"{name}/train/{n}", name, "train", "open", media, {}, ("a red 3",), instruction="which digit is it ?"
        )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return x_toys.write_model(tmp_path_factory.mktemp("x") / "model")


@pytest.fixture(scope="module")
def model(directory):
    return ib.from_pretrained(directory, dtype="float32", trainable="qformer_audio")


@pytest.fixture(scope="module")
def processor(directory):
    return ib.Processor.from_pretrained(directory)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    out = tmp_path_factory.mktemp("sets")
    for name in SETS:
        write(out, name, {"train": partial(records, name)})
    return {name: open_set(str(out), name, "train") for name in SETS}


def batches(sources, processor, **options):
    lengths = {"instruction_lengths": (40,), "response_lengths": (8,)}
    shares = dict.fromkeys(sources, 1 / len(sources))
    templates = TEMPLATE_SETS["instructions"]
    found = training_batches(
        sources, shares, processor, templates, batch_size=2, seed=1, window=1, **lengths, **options
    )
    by_kinds = {}
    while len(by_kinds) < len(sources):
        batch = next(found)
        by_kinds.setdefault(batch["uid"][0].split("/")[0], batch)
    return by_kinds


@pytest.fixture(scope="module")
def shown(sources, processor):
    return batches(sources, processor)


def arrays(batch):
    return {name: x for name, x in batch.items() if name not in ("set", "passed", "uid")}


def test_batches_are_as_the_configuration_describes_them(model, shown):
    for name, kinds in SETS.items():
        wanted = model.config.batch(2, 40, 8, kinds)
        made = arrays(shown[name])
        assert {key: (x.shape, x.dtype) for key, x in made.items()} == {
            k: (x.shape, x.dtype) for k, x in wanted.items()
        }
        places = np.unique(made["input_ids"][made["input_ids"] >= model.config.vocab_size])
        assert places.tolist() == sorted(map(model.config.token_id, model.config.sequence(kinds)))


def test_cached_features_are_those_of_the_media(model, processor, sources, shown, tmp_path, capsys):
    cached = compute.prepare(model, processor, sources, tmp_path, batch_size=4)
    said = capsys.readouterr().out
    for what, count in (("image features", 4 + 8), ("audio features", 4), ("point features", 4)):
        assert f"{what}: {count + 1} " in said  # and the blank medium
    stored = batches(sources, processor, features=cached)
    for name, batch in stored.items():
        assert not set(batch) & set(model.config.media_keys)
        assert batch["uid"] == shown[name]["uid"]
        want, got = (model.encode(arrays(one)) for one in (shown[name], batch))
        assert want.keys() == got.keys()
        for key, x in want.items():
            np.testing.assert_allclose(got[key], x, rtol=1e-4, atol=1e-5)
    compute.prepare(model, processor, sources, tmp_path, batch_size=4)
    assert capsys.readouterr().out == ""


def test_a_modality_trains_alone(model, shown, directory, tmp_path):
    tx = optimizer(OptimConfig(learning_rate=1e-2, warmup_steps=0), 4)
    step = make_step(partial(merge, model.graph), tx, seed=1)
    with jax.set_mesh(model.mesh):
        state = init_state({name: x.copy() for name, x in model.train.items()}, tx)
        state, metrics = step(state, model.frozen, put_batch(model.mesh, arrays(shown["heard"])))
    assert np.isfinite(float(metrics["loss"]))
    model.train = dict(state["train"])
    model.save_pretrained(tmp_path / "out")
    was, now = load_file(directory / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name, x in was.items() if not np.array_equal(x, now[name])}
    assert changed <= {name for name in was if name.startswith(trained_names("audio"))}
    assert {name.split(".")[0] for name in changed} == {
        "audio_ln",
        "audio_Qformer",
        "audio_query_tokens",
        "audio_llm_proj",
    }
    assert checkpoints.leaves_equal(
        {n: x for n, x in was.items() if n not in changed}, {n: now[n] for n in was if n not in changed}
    )


def test_questions_of_an_evaluation_show_each_records_media(model, processor, sources):
    for name, kinds in SETS.items():
        (batch, *_) = evaluation_batches(
            sources[name], processor, TEMPLATE_SETS["instructions"], batch_size=4, instruction_lengths=(40,)
        )
        wanted = model.config.batch(4, 40, kinds=kinds, training=False)
        made = {**batch.media, **batch.text}
        assert {key: (x.shape, x.dtype) for key, x in made.items()} == {
            k: (x.shape, x.dtype) for k, x in wanted.items()
        }
        assert batch.place.tolist() == [0, 1, 2, 3]
