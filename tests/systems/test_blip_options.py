"""BLIP's options, stochastic depth, and what its forms refuse."""

import dataclasses
import json

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructblip_jax.convert.layouts.hf_blip import TASKS, read_config
from instructblip_jax.models.towers.vit import Vit, VitConfig, shares

TINY = VitConfig(8, 12, 3, 2, 8, 4)  # three blocks


def config(directory, task, **text):
    raw = checkpoints.blip_json(TASKS[task], checkpoints.MINI, **text)
    (directory / "config.json").write_text(json.dumps(raw))
    return read_config(directory / "config.json")


def test_depth_is_left_out_row_by_row_and_only_with_a_key():
    factors = np.asarray(shares(jax.random.key(0), 0.5, 3, 4000))
    assert (factors[0] == 1).all()  # the first block is always there
    np.testing.assert_allclose((factors == 0).mean((1, 2)), [0, 0.25, 0.5], atol=0.02)
    np.testing.assert_allclose(factors.mean((1, 2)), 1, atol=0.03)
    whole, deep = (Vit(TINY, dtype=jnp.float32, rngs=nnx.Rngs(0), drop_path=rate) for rate in (0.0, 0.6))
    pixels = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    key = jax.random.key(2)
    want = np.asarray(whole(pixels))
    assert np.array_equal(want, whole(pixels, key=key))
    assert np.array_equal(want, deep(pixels))
    found = np.asarray(deep(pixels, key=key))
    changed = np.abs(found - want).max((1, 2)) > 1e-3
    dropped = np.asarray(shares(key, 0.6, 3, 6) == 0).any((0, 1))
    assert (changed | ~dropped).all()


def test_options_reach_their_form(tmp_path):
    pairs = config(tmp_path, "pretraining").configured(
        queue_size=9, alpha=0.1, ramp_steps=4, drop_path=0.1, dropout=0.2
    )
    assert (pairs.queue_size, pairs.alpha, pairs.ramp_steps, pairs.drop_path) == (9, 0.1, 4, 0.1)
    assert pairs.text.hidden_dropout_prob == pairs.text.attention_probs_dropout_prob == 0.2
    assert pairs.in_batch
    captions = config(tmp_path, "captioning")
    assert not captions.in_batch
    assert captions.begin_memory({"med/head/bias": jnp.zeros(3)}) == {}
    assert captions.configured(label_smoothing=0.0).label_smoothing == 0
    for form, option, words in (
        (captions, {"queue_size": 9}, "queue_size: this form has the options image_size, dropout, drop_path"),
        (captions, {"label_smoothing": 1.0}, "label_smoothing is 1.0; it must be at least 0 and below 1"),
        (pairs, {"queue_size": 0}, "queue_size is 0; it must be at least 1"),
        (pairs, {"alpha": True}, "alpha is True"),
    ):
        with pytest.raises(ValueError, match=words):
            form.configured(**option)
    with pytest.raises(ValueError, match="int8 is True: this system has no large language model"):
        captions.build(dtype=jnp.float32, rngs=nnx.Rngs(0), int8=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["BlipModel"]}, r"architectures is \['BlipModel'\]; it is one of BlipForPreTraining"),
        ({"text_config": {"bos_token_id": 30523}}, "text_config.bos_token_id is 30523: .DEC., and after it .ENC."),
        ({"text_config": {"hidden_size": 30}}, "text_config.hidden_size 30 is not a multiple of num_attention_heads 8"),
        ({"vision_config": {"image_size": 50}}, "vision_config.image_size 50 is not a multiple of patch_size 16"),
        (
            {"architectures": ["BlipForVisualReasoning"], "text_config": {"merge_layer": 12}},
            "merge_layer is 12, and num",
        ),
    ],
)
def test_configurations_that_cannot_be(tmp_path, change, words):
    raw = {"architectures": ["BlipForQuestionAnswering"], "model_type": "blip"}
    (tmp_path / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(ValueError, match=words):
        read_config(tmp_path / "config.json")


def test_a_stored_size_is_kept_where_pictures_are_larger(tmp_path):
    small = config(tmp_path, "retrieval")
    large = small.configured(image_size=small.vision.image_size + small.vision.patch_size)
    assert large.stored_image_size == small.vision.image_size
    assert dataclasses.replace(large, vision=small.vision, stored_image_size=0) == small
