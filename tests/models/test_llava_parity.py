"""LLaVA against transformers on PyTorch, live, on fresh random checkpoints. Skipped where torch is not installed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import checkpoints
import llava_reference as reference

IMAGE, PAD = 88, 89
CASES = {
    # as published: two layers and GELU, query heads that share key heads
    "published": ({"family": "grouped"}, reference.published, 1),
    # LLaVA 1.0's linear projector; the class token too; names as transformers 5 has them in memory
    "linear-in-memory": (
        {"projector_hidden_act": "linear", "vision_feature_select_strategy": "full", "family": "llama"},
        lambda name: name,
        2,
    ),
    # as transformers 5 writes a model that it made; the last layer's features
    "fresh": ({"vision_feature_layer": -1, "family": "llama"}, reference.fresh, 3),
}
PICTURES = [1, 2, 0, 2]
"""Pictures of each row: one, several, none, and one at the very end of the prompt."""


def prompts(slots: int, rng: np.random.Generator, pictures: list[int]) -> list[np.ndarray]:
    """Token rows with pictures at random places, the last row's at its end."""
    rows = []
    for number, count in enumerate(pictures):
        words = rng.integers(3, IMAGE, rng.integers(3, 12))
        places = np.sort(rng.integers(1, len(words) + 1, count))
        if number == len(pictures) - 1 and count:
            places[-1] = len(words)
        pieces = np.split(words, places)
        parts = [pieces[0]] + [x for piece in pieces[1:] for x in (np.full(slots, IMAGE), piece)]
        rows.append(np.concatenate([[1], *parts]))
    return rows


def padded(rows: list[np.ndarray], fill: int, side: str) -> np.ndarray:
    longest = max(map(len, rows))
    place = (lambda x: (longest - len(x), 0)) if side == "left" else (lambda x: (0, longest - len(x)))
    return np.stack([np.pad(x, place(x), constant_values=fill) for x in rows]).astype(np.int32)


def batch_of(config, seed: int, pictures: list[int], side: str = "right", *, answers: bool = True) -> dict:
    """A batch of the contract's form; the loss counts an answer behind each prompt."""
    rng = np.random.default_rng(seed)
    rows = prompts(config.tokens_per_picture, rng, pictures)
    tails = [np.append(rng.integers(3, IMAGE, rng.integers(1, 6)), 2) if answers else np.array([], int) for _ in rows]
    whole = [np.concatenate(pair) for pair in zip(rows, tails, strict=True)]
    side_pixels = config.vision.image_size
    batch = {
        "pixel_values": rng.standard_normal((len(rows), max(pictures), side_pixels, side_pixels, 3), np.float32),
        "input_ids": padded(whole, PAD, side),
        "attention_mask": padded([np.ones(len(x), int) for x in whole], 0, side),
    }
    if answers:
        counted = [np.concatenate([np.full(len(row), -100), tail]) for row, tail in zip(rows, tails, strict=True)]
        batch["labels"] = padded(counted, -100, side)
    return batch


OTHERS_HOLD_IT = {"fresh"}
"""Cases that run with the marker `reference`."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=pytest.mark.reference) if case in OTHERS_HOLD_IT else case for case in CASES],
)
def pair(request, tmp_path_factory):
    fields, spelled, seed = CASES[request.param]
    raw = checkpoints.llava_json(IMAGE + 2, sizes=checkpoints.MINI, **fields)
    directory = reference.write(tmp_path_factory.mktemp("llava") / request.param, raw, seed, spelled)
    model = ib.from_pretrained(directory, dtype="float32", trainable="projector_and_llm")
    return directory, model, reference.load(directory)


def test_features_logits_loss_and_gradients(pair):
    directory, model, theirs = pair
    for side in ("right", "left"):
        batch = batch_of(model.config, 7, PICTURES, side)
        want = reference.answers(theirs, reference.inputs(batch, PICTURES))
        encoded = np.asarray(model.encode(batch)["image"]).reshape(
            len(PICTURES), max(PICTURES), model.config.tokens_per_picture, -1
        )
        features = np.stack([encoded[row, n] for row, count in enumerate(PICTURES) for n in range(count)])
        np.testing.assert_allclose(features, want["features"], atol=2e-5 * np.abs(want["features"]).max(), rtol=0)
        seen = batch["attention_mask"] == 1
        logits = np.asarray(model(batch))[seen]
        np.testing.assert_allclose(logits, want["logits"][seen], atol=2e-5 * np.abs(logits).max(), rtol=0)
        loss, grads = ib.gradients(model, batch)
        assert float(loss) == pytest.approx(float(want["loss"]), rel=1e-5)
        wanted = {name for name in want if name.startswith(("grad/language_model.", "grad/multi_modal_projector."))}
        assert {f"grad/{name}" for name in grads} == wanted
        for name, x in grads.items():
            other = want[f"grad/{name}"]
            assert x.shape == other.shape
            assert np.abs(x - other).max() <= 1e-4 * np.abs(other).max(), name
    alone = ib.from_pretrained(directory, dtype="float32")  # stage 1: the projector
    loss, some = ib.gradients(alone, batch)
    assert set(some) == {name for name in grads if name.startswith("multi_modal_projector.")}
    for name, x in some.items():
        assert np.abs(x - want[f"grad/{name}"]).max() <= 1e-4 * np.abs(x).max(), name


def test_larger_pictures_and_every_layer(pair):
    directory, model, theirs = pair
    if directory.name != "published":
        pytest.skip("one case is enough")
    raw, side = checkpoints.llava_json(IMAGE + 2, sizes=checkpoints.MINI), model.config.vision.image_size + 28
    pixels = np.random.default_rng(2).standard_normal((2, side, side, 3), np.float32)
    moved = reference.torch.from_numpy(np.moveaxis(pixels, -1, 1).copy())
    tower = theirs.model.vision_tower(moved, output_hidden_states=True, interpolate_pos_encoding=True)
    for layer in (1, 2, 3):
        (directory / "config.json").write_text(json.dumps(raw | {"vision_feature_layer": layer}))
        large = ib.from_pretrained(directory, dtype="float32", image_size=side)
        got = np.asarray(large.encode({"pixel_values": pixels[:, None]})["image"])[:, 0]
        want = theirs.model.multi_modal_projector(tower.hidden_states[layer][:, 1:]).detach().numpy()
        np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max(), rtol=0)
    (directory / "config.json").write_text(json.dumps(raw))


SEARCHES = {"greedy": {}, "beams": {"num_beams": 3}, "short beams": {"num_beams": 3, "length_penalty": -2.0}}


def tokens_agree(model, theirs, pictures: list[int], seed: int) -> int:
    """Check the tokens of all searches; returns how many answers end before the limit."""
    batch = batch_of(model.config, seed, pictures, "left", answers=False)
    ended = 0
    for options in SEARCHES.values():
        want = reference.generate(theirs, reference.inputs(batch, pictures), max_new_tokens=10, **options)
        got = ib.generate_ids(model, batch, max_new_tokens=10, **options)
        np.testing.assert_array_equal(got, want[:, : got.shape[1]])
        assert (want[:, got.shape[1] :] == PAD).all()
        ended += int((got == 2).any(axis=1).sum())
    return ended


def test_greedy_and_beam_tokens(pair):
    _, model, theirs = pair
    tokens_agree(model, theirs, PICTURES, 11)


@pytest.mark.reference
def test_tokens_of_two_hundred_rows(pair):
    _, model, theirs = pair
    rng = np.random.default_rng(5)
    ended = sum(tokens_agree(model, theirs, [*rng.integers(0, 4, 49).tolist(), 3], seed) for seed in range(4))
    assert ended > 5


def test_what_was_read_is_written_bit_for_bit(pair, tmp_path):
    directory, model, _ = pair
    model.save_pretrained(tmp_path / "out")
    there, here = (load_file(d / "model.safetensors") for d in (directory, tmp_path / "out"))
    assert checkpoints.leaves_equal(there, here)
    reference.load(tmp_path / "out")
