"""Decoder-only language models and videos: padding anywhere changes nothing, positions count real tokens."""

import checkpoints
import numpy as np
import pytest

import instructblip_jax as ib

ROUNDING = 1e-5  # sums over rows in another order
KINDS = {"grouped": "instructblip", "opt": "blip-2"}


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    """The raw configuration, a model, a batch padded on the right, its logits, loss and gradients."""
    raw = checkpoints.config_json(KINDS[request.param], checkpoints.MINI, request.param)
    directory = checkpoints.write(tmp_path_factory.mktemp("model"), raw, seed=12)
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32")
    batch = checkpoints.batch(raw, rows=3, seed=12)
    assert len(set(batch["attention_mask"].sum(1))) == 3
    return raw, model, batch, np.asarray(model(batch)), ib.gradients(model, batch)


@pytest.mark.parametrize("where", ["left", "inside"])
def test_padding_moved_anywhere_changes_nothing(case, where):
    _, model, batch, logits, (loss, grads) = case
    moved = checkpoints.rearranged(batch, where)
    for name in ("input_ids", "attention_mask", "labels"):
        assert not np.array_equal(moved[name], batch[name])
    mask, moved_mask = batch["attention_mask"] == 1, moved["attention_mask"] == 1
    # Real tokens keep their order, so that both are lists of the same positions.
    np.testing.assert_allclose(np.asarray(model(moved))[moved_mask], logits[mask], atol=ROUNDING, rtol=0)
    again, other = ib.gradients(model, moved)
    assert float(again) == pytest.approx(float(loss), rel=1e-6)
    scale = max(np.abs(x).max() for x in grads.values())
    for name, gradient in grads.items():
        np.testing.assert_allclose(other[name], gradient, atol=1e-5 * scale, rtol=0)


def test_ids_under_the_mask_and_more_padding_mean_nothing(case):
    _, model, batch, logits, (loss, _) = case
    mask = batch["attention_mask"] == 1
    other = dict(batch, input_ids=np.where(mask, batch["input_ids"], 17).astype(np.int32))
    np.testing.assert_allclose(np.asarray(model(other))[mask], logits[mask], atol=ROUNDING, rtol=0)
    longer = checkpoints.padded(batch, 5)
    value, aux = ib.loss(model, longer)
    assert float(aux["tokens"]) == (batch["labels"] != -100).sum()
    assert float(value) == pytest.approx(float(loss), rel=1e-6)


def test_later_tokens_change_no_earlier_logits(case):
    raw, model, batch, logits, _ = case
    vocabulary = raw["text_config"]["vocab_size"]
    changed = dict(batch, input_ids=batch["input_ids"].copy())
    changed["input_ids"][:, 4:] = (changed["input_ids"][:, 4:] + 7) % vocabulary
    got = np.asarray(model(changed))
    np.testing.assert_allclose(got[:, :4], logits[:, :4], atol=ROUNDING, rtol=0)
    assert np.abs(got[:, 4] - logits[:, 4]).max() > 1e-2


def test_labels_belong_to_the_token_that_they_stand_at(case):
    """Each is predicted where the token before it stands."""
    _, _, batch, logits, (loss, _) = case
    labels = batch["labels"][:, 1:]
    shifted = logits[:, :-1].astype(np.float64)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    each = np.take_along_axis(log_probs, np.where(labels < 0, 0, labels)[..., None], axis=-1)[..., 0]
    assert float(loss) == pytest.approx(-each[labels != -100].mean(), rel=1e-5)


def test_more_positions_than_opt_has_are_refused(case):
    raw, model, batch, *_ = case
    if raw["text_config"]["model_type"] != "opt":
        pytest.skip("rotary positions have no end")
    with pytest.raises(ValueError, match="take 71 positions; this OPT has 70"):
        model(checkpoints.padded(batch, 71 - raw["num_query_tokens"] - batch["input_ids"].shape[1]))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    raw = checkpoints.config_json("instructblipvideo", checkpoints.MINI, "llama")
    directory = checkpoints.write(tmp_path_factory.mktemp("video"), raw, seed=13)
    return raw, ib.InstructBlip.from_pretrained(directory, dtype="float32")


def test_the_order_of_frames_matters_and_any_number_is_read(video):
    raw, model = video
    batch = checkpoints.batch(raw, rows=2, seed=13)
    mask = batch["attention_mask"] == 1
    logits = np.asarray(model(batch))
    backwards = np.asarray(model(dict(batch, pixel_values=batch["pixel_values"][:, ::-1].copy())))
    assert np.abs(backwards - logits)[mask].max() > 1e-2
    image = np.asarray(model.encode(batch)["image"])
    for n in range(3):
        alone = np.asarray(model.encode({"pixel_values": batch["pixel_values"][:, n : n + 1]})["image"])
        np.testing.assert_allclose(alone[:, 0], image[:, n], atol=ROUNDING, rtol=0)


def test_a_video_of_one_frame_is_a_picture(video):
    raw, model = video
    batch = checkpoints.batch(raw, rows=2, frames=1, seed=14)
    mask = batch["attention_mask"] == 1
    picture = np.asarray(model(dict(batch, pixel_values=batch["pixel_values"][:, 0])))
    np.testing.assert_allclose(np.asarray(model(batch))[mask], picture[mask], atol=ROUNDING, rtol=0)
