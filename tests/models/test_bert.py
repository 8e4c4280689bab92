"""BERT with cross-attention: against transformers' BLIP text model, in training and step by step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructblip_jax.convert.parts import bert as rules
from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack, LmHead, Writer
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.models.layers.post_norm import AttentionBlock

CONFIG = BertConfig(
    vocab_size=31,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    max_position_embeddings=16,
    encoder_hidden_size=20,
)


class Whole(nnx.Module):
    def __init__(self, config, rngs):
        kind = {"dtype": jnp.float32, "rngs": rngs}
        self.embeddings = BertEmbeddings(config, **kind)
        self.layers = BertStack(config, config.num_hidden_layers, cross=True, **kind)
        self.head = LmHead(config, **kind)

    @property
    def writer(self):
        return Writer(self.embeddings, self.layers, self.head)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, 31, (3, 7)))
    mask = jnp.asarray([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    return ids, mask, jnp.asarray(rng.normal(size=(3, 5, 20)), jnp.float32)


@pytest.fixture(scope="module")
def torch_model():
    torch = pytest.importorskip("torch", reason="the reference is PyTorch's")
    from transformers import BlipTextConfig, BlipTextLMHeadModel

    sizes = {name: x for name, x in dataclasses.asdict(CONFIG).items() if name != "token_types"}
    config = BlipTextConfig(**sizes, is_decoder=True, bos_token_id=1, sep_token_id=2, attn_implementation="eager")
    torch.manual_seed(0)
    model = BlipTextLMHeadModel(config).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.3 * torch.randn_like(x) * (0.3 if x.ndim > 1 else 1))
    return torch, model


@pytest.fixture(scope="module")
def ours(torch_model):
    _, model = torch_model
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    table = {
        rule.ours: rule
        for rule in (
            *rules.embeddings(CONFIG, "embeddings/", "bert."),
            *rules.layers("layers/", "bert.", cross=True),
            *rules.head("head/", "cls.predictions."),
        )
    }
    whole = Whole(CONFIG, nnx.Rngs(0))
    graph, state = nnx.split(whole)
    flat = []
    for path, variable in nnx.to_flat_state(state):
        rule = table.pop("/".join(map(str, path)))
        read = [rule.transform.read(tensors[name]) for name in rule.names(variable.shape)]
        flat.append((path, variable.replace(jnp.asarray(np.stack(read) if rule.stacked else read[0]))))
    assert not table
    return nnx.merge(graph, nnx.from_flat_state(flat))


def test_a_decoder_is_the_reference(torch_model, ours, inputs):
    torch, model = torch_model
    ids, mask, image = inputs
    with torch.no_grad():
        want = model(
            torch.tensor(np.asarray(ids)),
            attention_mask=torch.tensor(np.asarray(mask)),
            encoder_hidden_states=torch.tensor(np.asarray(image)),
        ).logits
    writer = ours.writer
    got = writer.logits(writer.hidden(ids, mask, image))
    real = np.asarray(mask, bool)
    np.testing.assert_allclose(got[real], want.numpy()[real], rtol=1e-4, atol=1e-4)


def test_an_encoder_reads_both_ways_and_without_a_picture(torch_model, ours, inputs):
    torch, model = torch_model
    ids, mask, image = inputs
    given = {"attention_mask": torch.tensor(np.asarray(mask)), "is_decoder": False}
    for seen in (None, image):
        picture = {} if seen is None else {"encoder_hidden_states": torch.tensor(np.asarray(seen))}
        with torch.no_grad():
            want = model.bert(torch.tensor(np.asarray(ids)), **given, **picture).last_hidden_state
        got = ours.layers(ours.embeddings(ids), mask_bias(mask), seen)
        real = np.asarray(mask, bool)
        np.testing.assert_allclose(got[real], want.numpy()[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("apart", [False, True])
def test_steps_through_the_cache_are_the_whole(ours, inputs, apart):
    ids, mask, image = inputs
    graph, state = nnx.split(ours)
    whole = nnx.merge(graph, state)
    want = whole.writer.logits(whole.writer.hidden(ids, jnp.ones_like(mask), image))
    if apart:
        stack.unstack(whole, keep=lambda path: False)
    writer, prompt = whole.writer, 3
    context = writer.prefill(ids[:, :prompt], jnp.ones((3, prompt), jnp.int32), image)
    cache = writer.init_cache(context, 1, 5)
    for n in range(prompt - 1, 7):
        logits, cache = writer.decode(ids[:, None, n : n + 1], context, cache, n - prompt + 1)
        np.testing.assert_allclose(logits[:, 0, 0], want[:, n], rtol=1e-4, atol=1e-4)
    at_once, _ = writer.decode(ids[:, None, prompt - 1 :], context)
    np.testing.assert_allclose(at_once[:, 0], want[:, prompt - 1 :], rtol=1e-4, atol=1e-4)


def test_another_models_self_attention_takes_the_place_of_the_layers_own(ours, inputs):
    ids, mask, image = inputs
    other = stack.build(lambda rngs: AttentionBlock(CONFIG, dtype=jnp.float32, rngs=rngs), 3, nnx.Rngs(5))
    writer = ours.writer._replace(self_attention=other)
    got, own = (x.hidden(ids, mask, image) for x in (writer, ours.writer))
    assert float(jnp.abs(got - own).max()) > 0.1
    graph, state = nnx.split(ours)
    replaced = nnx.merge(graph, state)
    replaced.layers.self_attention = other
    np.testing.assert_array_equal(got, replaced.writer.hidden(ids, mask, image))


def test_dropout_drops_in_every_block(inputs):
    ids, mask, image = inputs
    config = dataclasses.replace(CONFIG, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    whole = Whole(config, nnx.Rngs(0))
    runs = [whole.writer.hidden(ids, mask, image, key=jax.random.key(n)) for n in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert float(jnp.abs(runs[0] - runs[2]).max()) > 0.1
    masks = whole.layers.dropouts(jax.random.key(0), whole.embeddings(ids), image)
    assert set(masks) == {"self_probs", "self_out", "cross_probs", "cross_out", "ffn"}
    assert all(0.7 < float(x.mean()) < 0.9 for x in masks.values())


def test_longer_texts_than_positions_are_refused(ours):
    with pytest.raises(ValueError, match="17 tokens; this text model has 16 positions"):
        ours.embeddings(jnp.zeros((1, 17), jnp.int32))
