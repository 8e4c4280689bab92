"""Against what the reference answered on the committed tiny checkpoints (tests/goldens/make.py). Needs no torch."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import instructblip_jax as ib
from instructblip_jax.convert import save, table
from instructblip_jax.models.relative_bias import buckets
from instructblip_jax.systems.tree import merge

GOLDENS = Path(__file__).parent / "goldens"
STAGE, LOGITS, GRADIENT = 1e-5, 2e-5, 2e-5
"""Largest errors: absolute ones, and relative to the largest entry of a gradient. They have to be small: a vision
epsilon of 1e-5 for 1e-6 moves the logits by 6e-5 only, a Q-Former epsilon of 1e-6 for 1e-12 by 3e-5."""


class Golden:
    def __init__(self, kind: str):
        self.expected = dict(np.load(GOLDENS / kind / "expected.npz"))
        self.model = ib.InstructBlip.from_pretrained(GOLDENS / kind, dtype="float32", trainable="original")
        queries = self.model.config.num_query_tokens
        ids = {name: x.astype(np.int32) for name, x in self.expected.items() if x.dtype == np.int64 and x.ndim == 2}
        # Their text begins with a placeholder for each query, ours has none.
        self.batch = {
            "pixel_values": self.expected["pixel_values"].transpose(0, 2, 3, 1),
            "input_ids": ids["input_ids"][:, queries:],
            "attention_mask": ids["attention_mask"][:, queries:],
            "labels": ids["labels"],
        } | {name: x for name, x in ids.items() if name.startswith("qformer")}

    def stages(self) -> dict[str, np.ndarray]:
        """Every stage before the logits."""

        def run(train, frozen, batch):
            system = merge(self.model.graph, train, frozen)
            image = system.encode_image(batch["pixel_values"])
            text = batch.get("qformer_input_ids"), batch.get("qformer_attention_mask")
            return {
                "vision": image,
                "qformer": system.qformer(system.query_tokens[...], image, *text),
                "prefix": system.visual_prompt(image, batch),
                "encoder": system.llm.encode(*system.prompt(image, batch)),
            }

        with jax.set_mesh(self.model.mesh):
            return jax.tree.map(np.asarray, jax.jit(run)(self.model.train, self.model.frozen, self.batch))


@pytest.fixture(scope="module", params=["instructblip", "blip2"])
def golden(request) -> Golden:
    return Golden(request.param)


def test_the_batch_is_padded_and_of_odd_sizes(golden):
    for name in golden.batch.keys() - {"pixel_values", "labels"}:
        if name.endswith("mask"):
            assert (golden.batch[name] == 0).sum() > 0
    assert (golden.batch["labels"] == -100).any()
    assert golden.model.config.vision.grid % 2 == 1
    assert len(golden.batch["labels"]) == 3


def test_vision_qformer_prompt_and_encoder(golden):
    real = np.asarray(golden.expected["attention_mask"], bool)
    stages = golden.stages()
    stages["encoder"] = np.where(real[..., None], stages["encoder"], golden.expected["encoder"])
    for name, got in stages.items():
        assert got.shape == golden.expected[name].shape, name
        assert np.abs(got - golden.expected[name]).max() < STAGE, name


def test_logits(golden):
    got = np.asarray(golden.model(golden.batch))
    assert got.dtype == np.float32
    assert np.abs(got - golden.expected["logits"]).max() < LOGITS


def test_loss(golden):
    value, aux = ib.loss(golden.model, golden.batch)
    assert abs(float(value) / float(golden.expected["loss"]) - 1) < 1e-6
    assert float(aux["tokens"]) == (golden.batch["labels"] != -100).sum()


def test_gradients_of_every_trained_tensor(golden):
    value, grads = ib.gradients(golden.model, golden.batch)
    want = {name[5:]: x for name, x in golden.expected.items() if name.startswith("grad/")}
    assert abs(float(value) / float(golden.expected["loss"]) - 1) < 1e-6
    assert grads.keys() == want.keys()
    # Some gradients are zero in truth (softmax ignores a bias on all keys): these are held to the largest one.
    floor = 1e-7 * max(np.abs(x).max() for x in want.values())
    wrong = {}
    for name, x in want.items():
        assert grads[name].shape == x.shape, name
        assert grads[name].dtype == np.float32, name
        error = np.abs(grads[name] - x).max()
        if error > GRADIENT * np.abs(x).max() + floor:
            wrong[name] = (error, np.abs(x).max())
    assert not wrong


def test_greedy_ids(golden):
    want = golden.expected["greedy_ids"][:, 1:]  # without the start token
    assert golden.expected["greedy_margin"].min() > 100 * LOGITS  # no tie that rounding could decide
    assert len(np.unique(want)) > 8
    length = json.loads(str(golden.expected["meta"]))["runs"]["greedy"]["max_new_tokens"]
    np.testing.assert_array_equal(ib.generate_ids(golden.model, golden.batch, max_new_tokens=length), want)


def test_relative_position_buckets(golden):
    distance, text = np.arange(-300, 301), golden.model.config.text
    sizes = {"count": text.relative_attention_num_buckets, "max_distance": text.relative_attention_max_distance}
    for side, bidirectional in (("encoder", True), ("decoder", False)):
        got = buckets(distance, bidirectional=bidirectional, **sizes)
        np.testing.assert_array_equal(got, golden.expected[f"t5_bucket_{side}"])


def test_the_default_set_trains_all_but_the_norm_after_the_vision_tower(golden):
    names = {name[5:] for name in golden.expected if name.startswith("grad/")}
    model = ib.InstructBlip.from_pretrained(golden.model.directory, dtype="float32")
    trained = {name for name, _ in save.tensors(table.rules(model.config), model.train)}
    assert trained == {name for name in names if not name.startswith("vision_model.")}
    assert trained < names
