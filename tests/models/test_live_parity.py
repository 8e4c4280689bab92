"""Against transformers on PyTorch, live, on fresh random checkpoints. Skipped where torch is not installed."""

import jax
import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.datasets.digits.records import question
from instructblip_jax.datasets.digits.scene import render
from instructblip_jax.models.layers.relative_bias import buckets

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import checkpoints
import reference
import toys

LOGITS, GRADIENT = 5e-5, 1e-4  # absolute; relative to the largest entry of each tensor's gradient: see test_goldens.py

CASES = {
    # several seeds, several files; three rows, padded
    "sharded": ({"kind": "instructblip"}, {"shard_bytes": 20_000}, {"rows": 3}, (1, 2)),
    # as in 2023, and with the head tied to the embedding, which scales the decoder's output; one row
    "legacy-tied-gelu_new": (
        {"kind": "instructblip", "dense_act_fn": None, "tie_word_embeddings": None},
        {"legacy": True, "tied": True},
        {"rows": 1, "text": 1, "answer": 1},
        (3,),
    ),
    # no Q-Former text; a text longer than the largest relative distance told apart; seven rows
    "blip2-long": ({"kind": "blip-2"}, {"shard_bytes": 50_000}, {"rows": 7, "text": 150, "answer": 5}, (4, 5)),
    # several seeds, several files, the rotary buffers of old files
    "llama": ({"family": "llama"}, {"legacy": True, "shard_bytes": 20_000}, {"rows": 3}, (1, 2)),
    "llama-one-row": ({"family": "llama", "sizes": checkpoints.MINI}, {}, {"rows": 1, "text": 1, "answer": 1}, (3,)),
    "llama-grouped": ({"family": "grouped", "sizes": checkpoints.MINI}, {}, {"rows": 5, "text": 13, "answer": 4}, (4,)),
    # a copy of the head, as old files have it
    "blip2-opt": ({"kind": "blip-2", "family": "opt"}, {"legacy": True}, {"rows": 4, "text": 11}, (1, 2)),
    "video-t5": ({"kind": "instructblipvideo", "sizes": checkpoints.MINI}, {}, {"rows": 2}, (1,)),
    "video-llama": (
        {"kind": "instructblipvideo", "family": "llama", "sizes": checkpoints.MINI},
        {"legacy": True},
        {"rows": 3, "frames": 2},
        (2,),
    ),
}
OF_THEIR_OWN = {"legacy-tied-gelu_new", "llama-one-row", "video-t5"}
"""Cases that no golden holds; the others run with the marker `reference`."""


@pytest.mark.parametrize(
    "case", [case if case in OF_THEIR_OWN else pytest.param(case, marks=pytest.mark.reference) for case in CASES]
)
def test_logits_loss_gradients_and_greedy_ids(case, tmp_path):
    kind, layout, sizes, seeds = CASES[case]
    raw = checkpoints.config_json(**kind)
    model = None
    for seed in seeds:
        directory = checkpoints.write(tmp_path / str(seed), raw, seed=seed, **layout)
        loaded = ib.InstructBlip.from_pretrained(directory, dtype="float32", trainable="original")
        model = model or loaded  # one compilation for all seeds
        model.train, model.frozen = loaded.train, loaded.frozen
        theirs = reference.load(directory)
        batch = checkpoints.batch(raw, seed=seed, **sizes)
        arranged = [batch]
        if model.config.decoder_only:  # whose processor pads between visual prompt and text
            arranged += [checkpoints.rearranged(batch, "left", ("attention_mask",))] * (len(batch["labels"]) > 1)
        for one in arranged:
            want = reference.answers(theirs, reference.inputs(theirs, one))
            logits = np.asarray(model(one))
            assert logits.shape == want["logits"].shape
            counted = one["attention_mask"] == 1 if model.config.decoder_only else slice(None)
            assert np.abs(logits - want["logits"])[counted].max() < LOGITS
            value, grads = ib.gradients(model, one)
            assert abs(float(value) / float(want["loss"]) - 1) < 1e-6
            assert_gradients_agree(grads, {name[5:]: x for name, x in want.items() if name.startswith("grad/")})
        ids = ib.generate_ids(model, batch, max_new_tokens=12)
        np.testing.assert_array_equal(ids, reference.greedy_ids(theirs, batch, 12))


def test_the_shipped_checkpoint_is_one_that_transformers_loads():
    """Trained towers, a random Q-Former, a real picture and a real question: the same numbers as the reference."""
    scene, (values, answers) = question("caption", np.random.default_rng(0))
    assert not values
    processor = ib.Processor.from_pretrained(toys.SHIPPED)
    picture = Image.fromarray(render(scene, "validation", np.random.default_rng(1)))
    batch = processor([picture] * 2, ["list all digits with place and colour", "how many ?"], [*answers, "3"])
    model = ib.InstructBlip.from_pretrained(toys.SHIPPED, dtype="float32")
    theirs = reference.load(toys.SHIPPED)
    want = reference.answers(theirs, reference.inputs(theirs, batch))
    scale = np.abs(want["logits"]).max()
    assert np.abs(np.asarray(model(batch)) - want["logits"]).max() < 1e-5 * scale
    value, _ = ib.gradients(model, batch)
    assert abs(float(value) / float(want["loss"]) - 1) < 1e-5
    assert sum(file.stat().st_size for file in toys.SHIPPED.rglob("*")) < 6e6


def assert_gradients_agree(got, want):
    assert got.keys() == want.keys()
    floor = 1e-7 * max(np.abs(x).max() for x in want.values())  # some are zero in truth: see test_goldens
    errors = {name: np.abs(got[name] - x).max() / (np.abs(x).max() + floor / GRADIENT) for name, x in want.items()}
    wrong = {name: error for name, error in errors.items() if not error < GRADIENT}
    assert not wrong


def test_every_token_may_be_a_label(tmp_path):
    """The first token of a row is then predicted at the last position of the visual prompt."""
    raw = checkpoints.config_json("blip-2", checkpoints.MINI, "opt", num_hidden_layers=1)
    directory = checkpoints.write(tmp_path, raw, seed=5)
    batch = checkpoints.batch(raw, seed=5)
    batch["labels"] = np.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
    assert (batch["labels"][:, 0] != -100).all()
    model, theirs = ib.InstructBlip.from_pretrained(directory, dtype="float32"), reference.load(directory)
    want = reference.answers(theirs, reference.inputs(theirs, batch))
    for where in ("left", "inside"):
        value, aux = ib.loss(model, checkpoints.rearranged(batch, where))
        assert float(aux["tokens"]) == batch["attention_mask"].sum()
        assert abs(float(value) / float(want["loss"]) - 1) < 1e-6


@pytest.mark.parametrize("family", ["t5", pytest.param("llama", marks=pytest.mark.reference)])
def test_bfloat16_is_as_good_as_the_references_own(family, tmp_path):
    """Within a fifth: it holds that weights, activations and gradients are rounded where theirs are. A softmax or a
    score in bfloat16 costs less than that; `test_half_precision.py` reads these from the program."""
    raw = checkpoints.config_json(family=family)
    directory = checkpoints.write(tmp_path, raw, seed=6)
    batch = checkpoints.batch(raw, rows=4, seed=6)
    exact, half = reference.load(directory), reference.load(directory, dtype=reference.torch.bfloat16)
    truth = reference.answers(exact, reference.inputs(exact, batch))
    theirs = reference.answers(half, reference.inputs(half, batch))
    model = ib.InstructBlip.from_pretrained(directory, dtype="bfloat16")
    assert {x.dtype.name for x in model.frozen.values()} == {"bfloat16"}
    assert {x.dtype.name for x in model.train.values()} == {"float32"}
    counted = batch["labels"] != -100

    def error(logits) -> float:
        return float(np.sqrt(np.square(np.asarray(logits, np.float32) - truth["logits"])[counted].mean()))

    logits = model(batch)
    assert logits.dtype == np.float32
    assert 0 < error(logits) < 1.2 * error(theirs["logits"])

    value, grads = ib.gradients(model, batch)
    assert abs(float(value) - float(truth["loss"])) < 0.02 * float(truth["loss"])
    names = [name for name in grads if np.abs(truth[f"grad/{name}"]).max() > 1e-6]

    def gap(of) -> float:
        parts = [np.ravel(of(name) - truth[f"grad/{name}"]) for name in names]
        return float(np.linalg.norm(np.concatenate(parts)))

    assert gap(lambda name: grads[name]) < 1.2 * gap(lambda name: theirs[f"grad/{name}"])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("count", "max_distance"), [(32, 128), (16, 64), (8, 20)])
def test_relative_position_buckets(bidirectional, count, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-300, 301)
    want = T5Attention._relative_position_bucket(
        reference.torch.from_numpy(distance), bidirectional=bidirectional, num_buckets=count, max_distance=max_distance
    )
    got = buckets(distance, bidirectional=bidirectional, count=count, max_distance=max_distance)
    np.testing.assert_array_equal(got, want.numpy())


def test_an_exported_directory_loads_in_the_reference(tmp_path):
    """The names that our table writes are the reference's own: nothing missing, nothing unexpected, bit for bit."""
    raw = checkpoints.config_json()
    theirs = reference.load(checkpoints.write(tmp_path, raw, seed=8), dtype=reference.torch.float32)
    state = theirs.state_dict()
    for name, shape in checkpoints.tensor_shapes(tmp_path).items():
        np.testing.assert_array_equal(state[name].numpy(), checkpoints.values(name, shape, 8))
    assert jax.device_count() == 8  # tests run on fake devices; a model without a mesh uses one
