"""KOSMOS-2 against transformers on PyTorch, live, on a random checkpoint. Skipped where torch is not installed."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import checkpoints
import kosmos_reference as reference
import kosmos_toys

WORDS, PAD, END = 90, 1, 2
PICTURES = [1, 2, 0, 2]
"""Pictures of each row: one, several, none, and one at the very end of the prompt."""
RAW = kosmos_toys.config_json(
    WORDS, checkpoints.MINI, "kosmos-2", layers=2, vocab_size=WORDS, pad_token_id=PAD, bos_token_id=0
)
SLOTS, BEGIN, AFTER = RAW["latent_query_num"], WORDS - 2, WORDS - 1


def prompts(rng: np.random.Generator) -> list[np.ndarray]:
    """Token rows with pictures at random places, the last row's at its end."""
    rows = []
    for number, count in enumerate(PICTURES):
        words = rng.integers(4, BEGIN, rng.integers(3, 12))
        at = np.sort(rng.integers(0, len(words) + 1, count))
        if number == len(PICTURES) - 1:
            at[-1] = len(words)
        first, *later = np.split(words, at)
        picture = [BEGIN, *range(4, 4 + SLOTS), AFTER]
        rows.append(np.concatenate([[0], first, *(x for piece in later for x in (picture, piece))]).astype(np.int32))
    return rows


def padded(rows: list[np.ndarray], fill: int, side: str) -> np.ndarray:
    longest = max(map(len, rows))
    place = (lambda x: (longest - len(x), 0)) if side == "left" else (lambda x: (0, longest - len(x)))
    return np.stack([np.pad(x, place(x), constant_values=fill) for x in rows]).astype(np.int32)


def batch_of(seed: int, side: str, *, answers: bool = True) -> dict:
    """A batch of the contract's form; the loss counts an answer behind each prompt."""
    rng = np.random.default_rng(seed)
    rows, size = prompts(rng), RAW["vision_config"]["image_size"]
    tails = [np.append(rng.integers(4, BEGIN, rng.integers(1, 6)), END) if answers else np.array([], int) for _ in rows]
    whole = [np.concatenate(pair) for pair in zip(rows, tails, strict=True)]
    batch = {
        "pixel_values": rng.standard_normal((len(rows), max(PICTURES), size, size, 3), np.float32),
        "input_ids": padded(whole, PAD, side),
        "attention_mask": padded([np.ones(len(x), int) for x in whole], 0, side),
    }
    if answers:
        counted = [np.concatenate([np.full(len(row), -100), tail]) for row, tail in zip(rows, tails, strict=True)]
        batch["labels"] = padded(counted, -100, side)
    return batch


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    directory = reference.write(tmp_path_factory.mktemp("kosmos") / "model", RAW, 1)
    return directory, ib.from_pretrained(directory, dtype="float32"), reference.load(directory)


def test_features_logits_loss_and_gradients(pair):
    _, model, theirs = pair
    for side in ("right", "left"):
        batch = batch_of(7, side)
        want = reference.answers(theirs, RAW, batch, PICTURES)
        encoded = np.asarray(model.encode(batch)["image"])
        features = np.stack([encoded[row, n] for row, count in enumerate(PICTURES) for n in range(count)])
        np.testing.assert_allclose(features, want["features"], atol=2e-5 * np.abs(features).max(), rtol=0)
        seen = batch["attention_mask"] == 1
        logits = np.asarray(model(batch))[seen]
        np.testing.assert_allclose(logits, want["logits"][seen], atol=2e-5 * np.abs(logits).max(), rtol=0)
        loss, grads = ib.gradients(model, batch)
        assert float(loss) == pytest.approx(float(want["loss"]), rel=1e-5)
        assert {f"grad/{name}" for name in grads} == {name for name in want if name.startswith("grad/")}
        largest = max(np.abs(x).max() for x in grads.values())
        for name, x in grads.items():
            other = want[f"grad/{name}"]
            # A bias of all keys changes no softmax: its gradient is rounding, theirs and ours.
            near = 1e-6 * largest if name.endswith("k_proj.bias") else 1e-4 * np.abs(other).max()
            assert np.abs(x - other).max() <= near, name


SEARCHES = {"greedy": {}, "beams": {"num_beams": 3}, "short beams": {"num_beams": 3, "length_penalty": -2.0}}


def test_greedy_and_beam_tokens(pair):
    _, model, theirs = pair
    batch = batch_of(11, "left", answers=False)
    for options in SEARCHES.values():
        want = reference.generate(theirs, RAW, batch, PICTURES, max_new_tokens=10, **options)
        assert not np.isin(want, (BEGIN, AFTER)).any(), "choose another seed: here no answer holds them"
        got = ib.generate_ids(model, batch, max_new_tokens=10, **options)
        np.testing.assert_array_equal(got, want[:, : got.shape[1]])
        assert (want[:, got.shape[1] :] == PAD).all()


def test_no_answer_begins_or_ends_a_picture(pair):
    model = ib.from_pretrained(pair[0], dtype="float32")
    batch = batch_of(11, "left", answers=False)
    name = next(name for name in model.train if name.endswith("tokens/embedding"))
    row = 20 * model.train[name][END]
    model.train[name] = model.train[name].at[BEGIN].set(row).at[AFTER].set(-row)
    likely = np.asarray(model(batch))[:, -1].argmax(axis=1)
    assert np.isin(likely, (BEGIN, AFTER)).all()
    for options in SEARCHES.values():
        ids = ib.generate_ids(model, batch, max_new_tokens=6, min_new_tokens=6, **options)
        assert not np.isin(ids, (BEGIN, AFTER)).any()


def test_what_was_read_is_written_bit_for_bit(pair, tmp_path):
    directory, model, _ = pair
    model.save_pretrained(tmp_path / "out")
    there, here = (load_file(d / "model.safetensors") for d in (directory, tmp_path / "out"))
    del there["vision_model.model.embeddings.position_ids"]
    assert checkpoints.leaves_equal(there, here)
    reference.load(tmp_path / "out")
