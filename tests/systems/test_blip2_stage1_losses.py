"""BLIP-2's first stage against transformers' parts, live: embeddings, logits, and the losses stated once more in torch.

Skipped where torch is not installed.
"""

import jax
import jax.numpy as jnp
import minis
import numpy as np
import pytest

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.objectives.term import mean_of
from instructblip_jax.systems.build import merge

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import Blip2ForImageTextRetrieval

ROWS, LENGTH, SMOOTHING = 4, 7, 0.1
DRAWS = np.array([[0.1, 0.5, 0.9, 0.3], [0.7, 0.2, 0.6, 0.99]], np.float32)
"""The uniform numbers that choose each text's picture, and each picture's text."""
PICTURES = {"each its own": [0, 1, 2, 3], "two rows of one": [5, 1, 5, 3]}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The mini in ours and in theirs, with the tensors that theirs does not read, and a batch."""
    directory = minis.write(tmp_path_factory.mktemp("stage1") / "blip-2-stage-1", "blip-2-stage-1", seed=6)
    ours = ib.from_pretrained(directory, dtype="float32", label_smoothing=SMOOTHING)
    theirs = Blip2ForImageTextRetrieval.from_pretrained(directory, attn_implementation="eager").eval()
    others = {
        name: x for name, x in load_file(directory / "model.safetensors").items() if name.startswith(("temp", "cls"))
    }
    rng, config = np.random.default_rng(0), ours.config
    side, words = config.vision.image_size, config.dec_token_id
    batch = {
        "pixel_values": rng.standard_normal((ROWS, side, side, 3), np.float32),
        "input_ids": rng.integers(5, words, (ROWS, LENGTH)).astype(np.int32),
        "attention_mask": (np.arange(LENGTH) < np.array([[7], [4], [6], [5]])).astype(np.int32),
    }
    batch["input_ids"] = np.where(batch["attention_mask"], batch["input_ids"], 0).astype(np.int32)
    batch["input_ids"][:, 0] = 2
    return ours, theirs, {name: x.requires_grad_() for name, x in others.items()}, batch


def close(ours, theirs, bound=1e-4):
    theirs = np.asarray(theirs.detach() if torch.is_tensor(theirs) else theirs)
    assert np.abs(np.asarray(ours) - theirs).max() <= bound * max(np.abs(theirs).max(), 1e-3)


def inputs(batch):
    pixels = torch.from_numpy(np.moveaxis(batch["pixel_values"], -1, 1).copy())
    return pixels, torch.from_numpy(batch["input_ids"]).long(), torch.from_numpy(batch["attention_mask"]).long()


def test_embeddings_and_matching_logits_are_theirs(pair):
    ours, theirs, _, batch = pair
    pixels, ids, mask = inputs(batch)
    with torch.no_grad():
        itc, itm = (
            theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=matching)
            for matching in (False, True)
        )
    media = ours.encode(batch)
    images, texts = ours.embed_media(media), ours.embed_texts(batch)
    close(np.einsum("bqe,ne->bnq", images, texts).max(-1), itc.logits_per_image)
    close(images, itc.image_embeds)
    close(ours.match(media, batch), itm.logits_per_image)


def qformer(model, image, ids, mask):
    """Query states, or those of queries and texts under a mask [B, S], or an additive one [B, 1, S, S]."""
    queries = model.query_tokens.expand(len(image), -1, -1)
    embeds = queries if ids is None else model.embeddings(input_ids=ids, query_embeds=queries)
    return model.qformer(
        query_embeds=embeds,
        query_length=queries.shape[1],
        attention_mask=mask,
        encoder_hidden_states=image,
    ).last_hidden_state


def stated(model, head, batch, pictures, draws):
    """The three losses of section 3.1, as sums of plain steps."""
    pixels, ids, mask = inputs(batch)
    with torch.no_grad():  # the tower is frozen, its last norm is not
        tokens = model.vision_model.embeddings(pixels)
        for layer in model.vision_model.encoder.layers:
            tokens = layer(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
    image, count = model.vision_model.post_layernorm(tokens), model.query_tokens.shape[1]
    images = functional.normalize(model.vision_projection(qformer(model, image, None, None)), dim=-1)
    alone = model.qformer(
        query_embeds=model.embeddings(input_ids=ids), query_length=0, attention_mask=mask
    ).last_hidden_state
    texts = functional.normalize(model.text_projection(alone[:, 0]), dim=-1)
    of_images = torch.einsum("bqe,ne->bnq", images, texts.detach()).amax(-1) / head["temp"]
    of_texts = torch.einsum("bqe,ne->nbq", images.detach(), texts).amax(-1) / head["temp"]
    same = torch.tensor(pictures)[:, None] == torch.tensor(pictures)[None]
    targets = (1 - SMOOTHING) * same / same.sum(1, keepdim=True) + SMOOTHING / ROWS
    contrast = sum(functional.cross_entropy(x, targets) for x in (of_images, of_texts)) / 2

    def drawn(logits, uniform):
        chances = logits.detach().masked_fill(same, -10000).softmax(1).cumsum(1)
        return (chances > torch.from_numpy(uniform)[:, None] * chances[:, -1:]).int().argmax(1)

    picture, text = drawn(of_texts, draws[0]), drawn(of_images, draws[1])
    seen = torch.cat([mask, mask, mask[text]])
    fused = qformer(
        model,
        torch.cat([image, image[picture], image]),
        torch.cat([ids, ids, ids[text]]),
        torch.cat([torch.ones(3 * ROWS, count, dtype=seen.dtype), seen], 1),
    )
    logits = model.itm_head(fused[:, :count]).mean(1)
    matching = functional.cross_entropy(logits, torch.tensor([1] * ROWS + [0] * 2 * ROWS))

    written = ids.clone()
    written[:, 0] = model.config.qformer_config.vocab_size - 1
    visible = torch.zeros(ROWS, count + LENGTH, count + LENGTH)
    visible[:, :, :count] = 1
    visible[:, count:, count:] = torch.ones(LENGTH, LENGTH).tril() * mask[:, None, :]
    closed = (1 - visible[:, None]) * torch.finfo(torch.float32).min
    x = qformer(model, image, written, closed)[:, count:]
    part = {name.removeprefix("cls.predictions."): value for name, value in head.items()}
    x = functional.gelu(functional.linear(x, part["transform.dense.weight"], part["transform.dense.bias"]))
    norm = [part[f"transform.LayerNorm.{name}"] for name in ("weight", "bias")]
    x = functional.layer_norm(x, x.shape[-1:], *norm, eps=1e-12)
    x = x @ model.embeddings.word_embeddings.weight.T + part["bias"]
    labels = written.masked_fill(mask == 0, -100)[:, 1:]
    writing = functional.cross_entropy(x[:, :-1].flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)
    return {"itc": contrast, "itm": matching, "itg": writing}


@pytest.fixture(scope="module")
def losses(pair):
    """The compiled losses and gradients of ours."""
    ours = pair[0]

    def loss(train, batch):
        terms = merge(ours.graph, train, ours.frozen).terms(batch, *DRAWS)
        means = {name: mean_of(term.sums.sum(), term.counts.sum()) for name, term in terms.items()}
        return sum(means.values()), means

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("pictures", PICTURES)
def test_losses_and_all_gradients_are_the_stated_ones(pair, losses, pictures):
    ours, theirs, head, batch = pair
    want = stated(theirs, head, batch, PICTURES[pictures], DRAWS)
    theirs.zero_grad()
    for x in head.values():
        x.grad = None
    sum(want.values()).backward()
    (_, found), grads = losses(ours.train, batch | {"picture": jnp.array(PICTURES[pictures], jnp.int32)})
    for name, value in want.items():
        assert float(found[name]) == pytest.approx(value.item(), rel=1e-4), name
    grads = dict(save.tensors(ours.family.rules(ours.config), grads))
    expected = {name: x.grad for name, x in (*theirs.named_parameters(), *head.items()) if x.grad is not None}
    assert grads.keys() == expected.keys()
    largest = max(float(x.abs().max()) for x in expected.values())
    for name, x in grads.items():
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding
            close(x, expected[name])
        assert np.abs(x).max() <= 2 * largest


def test_training_batches_identify_pictures_where_that_is_asked(pair):
    config = pair[0].config
    identified = config.configured(identify_pictures=True)
    assert "picture" not in config.batch(4, 8, 8)
    assert identified.batch(4, 8, 8)["picture"].shape == (4,)
    assert "picture" not in identified.batch(4, 8, training=False)
    with pytest.raises(ValueError, match="identify_pictures is 1; it is True or False"):
        config.configured(identify_pictures=1)
