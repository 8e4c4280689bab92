"""KOSMOS-1 against tests/goldens/kosmos1 (see make.py there): xPos and the connector, from a tower's features on."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.systems.build import merge

DIRECTORY = Path(__file__).parents[1] / "goldens" / "kosmos1"
COUNTS = [0, 1, 2]
"""Pictures of the rows of the text; those of the prompts are counted below."""


@pytest.fixture(scope="module")
def golden():
    return ib.from_pretrained(DIRECTORY, dtype="float32"), dict(np.load(DIRECTORY / "expected.npz"))


def by_row(pictures, counts):
    """[pictures, ...] of all rows -> [B, N, ...], the last ones repeated where a row has fewer."""
    starts = np.cumsum([0, *counts[:-1]])
    place = np.minimum(starts[:, None] + np.arange(max(counts)), len(pictures) - 1)
    return pictures[place]


def batch_of(expected, kind=""):
    ids, mask = (expected[f"{kind}{name}"].astype(np.int32) for name in ("ids", "mask"))
    batch = {"pixel_values": np.zeros((len(ids), 2, 14, 14, 3), np.float32), "input_ids": ids, "attention_mask": mask}
    return batch if kind else batch | {"labels": expected["labels_text"].astype(np.int32)}


def test_logits_loss_and_gradients(golden):
    model, expected = golden
    batch = batch_of(expected)

    def run(train):
        system = merge(model.graph, train, model.frozen)
        vectors = system.pool(jnp.asarray(expected["vision_features"]))
        media = {"image": by_row(vectors, COUNTS)}
        system.encode = lambda batch: media
        terms, _ = system.loss(batch, memory={}, step=0)
        loss = jnp.sum(terms["lm"].sums) / jnp.sum(terms["lm"].counts)
        return loss, (vectors, system.logits(batch))

    (loss, (vectors, logits)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(model.train)
    np.testing.assert_allclose(vectors, expected["picture_embeddings"], atol=1e-5, rtol=0)
    seen = batch["attention_mask"] == 1
    np.testing.assert_allclose(np.asarray(logits)[seen], expected["logits"][seen], atol=2e-5, rtol=0)
    assert float(loss) == pytest.approx(float(expected["loss_text"]), rel=1e-5)
    named = dict(save.tensors(model.family.rules(model.config), grads))
    wanted = {name.removeprefix("grad/"): x for name, x in expected.items() if name.startswith("grad/")}
    assert wanted.keys() == {name for name in named if not name.startswith("vision_model.")}
    largest = max(np.abs(x).max() for x in wanted.values())
    for name, x in wanted.items():  # xPos turns the bias of all keys by their positions: it has a gradient
        near = 1e-6 * largest if name.endswith("x_attn.k_proj.bias") else 1e-4 * np.abs(x).max()
        assert np.abs(named[name] - x).max() <= near, name


def test_greedy_tokens_from_cached_keys(golden, monkeypatch):
    model, expected = golden
    batch = batch_of(expected, "prompt_")
    counts = [(row == model.config.begin_id).sum() for row in batch["input_ids"]]
    media = {"image": by_row(expected["picture_embeddings"], counts)}
    new = expected["greedy_ids"][:, batch["input_ids"].shape[1] :]
    assert model.config.forbidden_ids == (38, 39)
    # The oracle forbids padding and the token of the slots, too, and does not stop: at 38 no answer can end.
    monkeypatch.setattr(type(model.config), "forbidden_ids", (1, 37, 38, 39))
    got = ib.generate_ids(model, batch, media=media, max_new_tokens=new.shape[1], eos_token_id=38)
    np.testing.assert_array_equal(got, new)
