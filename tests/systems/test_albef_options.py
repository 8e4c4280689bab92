"""ALBEF's configurations, its options, and the figures of its recipes."""

import json
import math
import runpy

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from instructblip_jax.convert.layouts.albef import TASKS, read_config
from instructblip_jax.run.config import resolve
from instructblip_jax.systems.albef import distilled
from instructblip_jax.systems.albef_pairs import corrupt, draw
from instructblip_jax.systems.pairs import within_bounds


def config(directory, task):
    (directory / "config.json").write_text(json.dumps(checkpoints.albef_json(TASKS[task], checkpoints.MINI)))
    return read_config(directory / "config.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["AlbefModel"]}, r"architectures is \['AlbefModel'\]; it is one of AlbefForPreTraining"),
        ({"text_config": {"fusion_layer": 12}}, "text_config.fusion_layer is 12, and num_hidden_layers 12"),
        ({"text_config": {"mask_token_id": 30522}}, "text_config.mask_token_id is 30522; vocab_size is 30522"),
        ({"text_config": {"hidden_size": 30}}, "text_config.hidden_size 30 is not a multiple of num_attention_heads"),
        ({"vision_config": {"image_size": 50}}, "vision_config.image_size 50 is not a multiple of patch_size 16"),
        ({"add_sep": "no"}, "add_sep is 'no', not of type bool"),
        ({"vision_config": []}, None),
        ({"vision_config": [1]}, "vision_config is not an object"),
    ],
)
def test_configurations(tmp_path, change, words):
    raw = {"architectures": ["AlbefForVisualEntailment"], "model_type": "albef"}
    (tmp_path / "config.json").write_text(json.dumps(raw | change))
    if words is None:  # everything at the paper's sizes
        found = read_config(tmp_path / "config.json")
        assert (found.vision.hidden_size, found.vision.grid, found.text.num_hidden_layers) == (768, 16, 12)
        assert (found.fusion_layer, found.text.token_types, found.add_sep) == (6, True, False)
        return
    with pytest.raises(ValueError, match=words):
        read_config(tmp_path / "config.json")


def test_what_each_form_remembers(tmp_path):
    train = {f"{name}/x": jnp.zeros(2) for name in ("vit", "fusion", "head", "vision_proj", "cls_head", "decoder")}
    copies = {}
    for task in TASKS:
        form = config(tmp_path, task)
        assert form.in_batch == (task in ("pretraining", "retrieval"))
        small = form.configured(queue_size=3) if form.in_batch else form
        copies[task] = {name.removeprefix("momentum/") for name in small.begin_memory(train)}
        if not form.in_batch:
            assert form.configured(alpha=0.0).begin_memory(train) == {}
            with pytest.raises(ValueError, match="queue_size: this form has the options"):
                form.configured(queue_size=3)
    queues = {"image_queue", "text_queue", "place"}
    assert copies["pretraining"] == {"vit/x", "fusion/x", "head/x", "vision_proj/x", *queues}
    assert copies["retrieval"] == {"vit/x", "vision_proj/x", "picture_queue", *queues}
    assert copies["question_answering"] == {"vit/x", "fusion/x", "decoder/x"}
    assert copies["reasoning"] == copies["entailment"] == {"vit/x", "fusion/x", "cls_head/x"}


def test_masked_words_are_drawn_as_the_paper_says():
    ids = jnp.full((200, 50), 7).at[:, 0].set(2)
    mask = jnp.ones_like(ids).at[:, 40:].set(0)
    shown, labels = corrupt(ids, mask, draw(jax.random.key(0), 200, 50, 1000), 2, 4)
    guessed = np.asarray(labels >= 0)
    assert not guessed[:, 0].any()
    assert not guessed[:, 40:].any()
    assert guessed[:, 1:40].mean() == pytest.approx(0.15, abs=0.01)
    seen = np.asarray(shown)[guessed]
    shares = [(seen == 4).mean(), ((seen != 4) & (seen != 7)).mean(), (seen == 7).mean()]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert (np.asarray(shown) == np.asarray(ids))[~guessed].all()


def test_a_temperature_outside_of_its_bounds_still_has_a_gradient():
    value, gradient = jax.vmap(jax.value_and_grad(within_bounds))(jnp.array([0.0, 0.07, 0.9]))
    assert value.tolist() == pytest.approx([0.001, 0.07, 0.5])
    assert gradient.tolist() == [1, 1, 1]


def test_a_teacher_has_no_gradient():
    logits, taught = (jax.random.normal(jax.random.key(n), (2, 3, 5)) for n in (0, 1))
    labels = jnp.array([[1, -100, 2], [-100, -100, -100]])
    gradients = jax.grad(lambda *x: distilled(x[0], labels, x[1], 0.4)[0].sum(), (0, 1))(logits, taught)
    assert np.abs(gradients[0][0, 0]).max() > 0
    assert not np.asarray(gradients[0][1]).any()
    assert not np.asarray(gradients[1]).any()


@pytest.mark.parametrize(
    ("variant", "epochs", "batch", "rates", "side", "ramp"),
    [
        ("pretraining", 30, 512, (1e-4, 1e-5), 256, True),
        ("retrieval_coco", 5, 256, (1e-5, 1e-6), 384, True),
        ("retrieval_flickr", 10, 256, (1e-5, 1e-6), 384, True),
        ("vqa", 8, 256, (2e-5, 1e-6), 384, True),
        ("nlvr2", 10, 128, (2e-5, 1e-6), 384, True),
        ("snli_ve", 5, 256, (2e-5, 1e-6), 384, False),
    ],
)
def test_recipes(tmp_path, variant, epochs, batch, rates, side, ramp):
    run = resolve(runpy.run_path(str(toys.ROOT / "configs" / "albef.py"))["get_config"](variant))
    assert (run.batch_size, run.image_size) == (batch, side)
    assert (run.optim.learning_rate, run.optim.final_learning_rate) == rates
    assert (run.optim.weight_decay, run.optim.beta2, run.optim.clip_norm) == (0.02, 0.999, 0.0)
    epoch = run.steps / epochs
    assert run.system["ramp_steps"] == (epoch if ramp else 0)
    assert run.checkpoint_every == epoch == math.floor(epoch)
    augment = run.data.augment
    assert (augment.crop, augment.flip) == (0.2 if variant == "pretraining" else 0.5, True)
    assert (augment.operations, augment.magnitude) == (2, 7)
    task = {"retrieval_coco": "retrieval", "retrieval_flickr": "retrieval", "vqa": "question_answering"}
    task |= {"nlvr2": "reasoning", "snli_ve": "entailment"}
    raw = {"architectures": [TASKS[task.get(variant, variant)]], "model_type": "albef"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    form = read_config(tmp_path / "config.json").configured(image_size=side, **run.system)
    assert form.alpha == 0.4
