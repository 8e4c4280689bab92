"""Frozen against a statement of it on PyTorch, live, on random checkpoints. Skipped where torch is not installed."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is PyTorch, which is not installed")
import checkpoints
import frozen_reference as reference
import frozen_toys

SEED, SIDE, WORDS = 4, 45, 90
PICTURES = [1, 2, 0, 3]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    raw = frozen_toys.config_json(WORDS)
    return checkpoints.write(tmp_path_factory.mktemp("frozen") / "model", raw, seed=SEED)


def batch(side):
    """Rows with 0 to 3 pictures, two in a row and one at the very end of a prompt among them."""
    rng, image = np.random.default_rng(SEED), WORDS - 1
    marks = [[0], [3, 3], [], [1, 4, 6]]
    rows, labels = [], []
    for places in marks:
        pieces = np.split(rng.integers(3, image, 6), places)
        row = np.concatenate([[1], pieces[0], *(x for piece in pieces[1:] for x in ([image] * 2, piece))])
        answer = np.append(rng.integers(3, image, rng.integers(1, 5)), 2)
        rows.append(np.concatenate([row, answer]))
        labels.append(np.concatenate([np.full(len(row), -100), answer]))
    longest = max(map(len, rows))

    def padded(all_rows, fill):
        pads = [(longest - len(row), 0) if side == "left" else (0, longest - len(row)) for row in all_rows]
        return np.stack(
            [np.pad(row, pad, constant_values=fill) for row, pad in zip(all_rows, pads, strict=True)]
        ).astype(np.int32)

    pixels = rng.standard_normal((len(rows), max(PICTURES), SIDE, SIDE, 3), np.float32)
    mask = padded([np.ones(len(row)) for row in rows], 0)
    return {
        "pixel_values": pixels,
        "input_ids": padded(rows, 0),
        "attention_mask": mask,
        "labels": padded(labels, -100),
    }


@pytest.mark.parametrize("side", ["right", "left"])
def test_vectors_logits_loss_and_gradients(directory, side):
    given = batch(side)
    want = reference.answers(directory, json.loads((directory / "config.json").read_text()), given)
    model = ib.from_pretrained(directory, dtype="float32")
    vectors = np.asarray(model.encode(given)["image"])
    np.testing.assert_allclose(vectors, want["vectors"], rtol=0, atol=2e-5 * np.abs(want["vectors"]).max())
    seen = given["attention_mask"] == 1
    np.testing.assert_allclose(np.asarray(model(given))[seen], want["logits"][seen], rtol=0, atol=1e-4)
    loss, grads = ib.gradients(model, given)
    assert float(loss) == pytest.approx(float(want["loss"]), rel=1e-5)
    assert {f"grad/{name}" for name in grads} == {name for name in want if name.startswith("grad/")}
    for name, x in grads.items():
        other = want[f"grad/{name}"]
        assert np.abs(x - other).max() <= 1e-4 * np.abs(other).max(), name


def test_an_export_is_the_source_bit_for_bit(directory, tmp_path):
    source = shutil.copytree(directory, tmp_path / "source")
    ib.from_pretrained(source, dtype="float32").save_pretrained(tmp_path / "out")
    was, now = (load_file(path / "model.safetensors") for path in (source, tmp_path / "out"))
    assert was.keys() == now.keys()
    for name, x in was.items():
        np.testing.assert_array_equal(now[name], x, err_msg=name)
