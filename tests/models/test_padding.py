"""Padding, on any side and of any length, changes no answer; neither do the ids under it."""

import checkpoints
import jax
import numpy as np
import pytest

import instructblip_jax as ib

ROUNDING = 5e-6  # sums over longer rows are added in another order


@pytest.fixture(scope="module")
def raw():
    return checkpoints.config_json()


@pytest.fixture(scope="module")
def model(raw, tmp_path_factory):
    return ib.InstructBlip.from_pretrained(
        checkpoints.write(tmp_path_factory.mktemp("model"), raw, seed=11), dtype="float32"
    )


@pytest.fixture(scope="module")
def right(raw):
    return checkpoints.batch(raw, rows=3, seed=11)


@pytest.fixture(scope="module")
def logits(model, right):
    return np.asarray(model(right))


def test_left_padded_rows_give_the_same_logits(model, right, logits):
    left = checkpoints.left_padded(right)
    assert not np.array_equal(left["input_ids"], right["input_ids"])
    np.testing.assert_array_equal(np.asarray(model(left)), logits)


def test_ids_under_the_mask_mean_nothing(model, right, logits):
    other = dict(right)
    for ids, mask in (("input_ids", "attention_mask"), ("qformer_input_ids", "qformer_attention_mask")):
        other[ids] = np.where(right[mask] == 1, right[ids], 17).astype(np.int32)
        assert not np.array_equal(other[ids], right[ids])
    np.testing.assert_allclose(np.asarray(model(other)), logits, atol=ROUNDING, rtol=0)


def test_more_padding_changes_neither_loss_nor_tokens_nor_answers(model, right, logits):
    longer = checkpoints.padded(right, 5)
    assert longer["labels"].shape[1] == right["labels"].shape[1] + 5
    loss, aux = ib.loss(model, right)
    longer_loss, longer_aux = ib.loss(model, longer)
    assert float(aux["tokens"]) == float(longer_aux["tokens"]) == (right["labels"] != -100).sum()
    assert float(longer_loss) == pytest.approx(float(loss), rel=1e-6)
    media = model.encode(right)
    want = ib.generate_ids(model, right, media=media, max_new_tokens=10)
    assert len(np.unique(want)) > 3
    np.testing.assert_array_equal(ib.generate_ids(model, longer, media=media, max_new_tokens=10), want)


def test_the_loss_is_the_mean_over_tokens_not_over_rows(model, right, logits):
    labels = right["labels"]
    log_probs = np.asarray(jax.nn.log_softmax(logits.astype(np.float64), axis=-1))
    counted = labels != -100
    each = -np.take_along_axis(log_probs, np.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    assert len(set(counted.sum(1))) > 1  # rows of different lengths, or both means would agree
    assert float(ib.loss(model, right)[0]) == pytest.approx(each[counted].mean(), rel=1e-6)


def test_a_row_alone_is_the_row_in_a_batch(model, right, logits):
    for n in range(len(logits)):
        row = {name: x[n : n + 1] for name, x in right.items()}
        np.testing.assert_allclose(np.asarray(model(row))[0], logits[n], atol=2e-5, rtol=0)


def test_the_instruction_reaches_the_language_model_through_the_qformer(model, raw, right, logits):
    changed = dict(right, qformer_input_ids=(right["qformer_input_ids"] + 1) % raw["qformer_config"]["vocab_size"])
    assert np.abs(np.asarray(model(changed)) - logits).max() > 1e-2


def test_an_unusable_batch_is_refused_by_name(model, raw, right):
    size = raw["vision_config"]["image_size"]
    with pytest.raises(ValueError, match=rf"pixel_values .* takes \[B, {size}, {size}, 3\]"):
        model(dict(right, pixel_values=right["pixel_values"][:, 1:]))
    with pytest.raises(ValueError, match="qformer_input_ids: 49 tokens; the Q-Former has 48 positions"):
        model(checkpoints.padded(right, 49 - right["qformer_input_ids"].shape[1]))
    with pytest.raises(ValueError, match="no qformer_input_ids"):
        model({name: x for name, x in right.items() if name != "qformer_input_ids"})
