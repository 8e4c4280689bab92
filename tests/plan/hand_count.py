"""FLOPs of one training example of InstructBLIP, worked out by hand from the sizes of its parts.

It is the recipe's count: a causal score counts where it looks back, and the head where a response token is predicted. A
trace has more (`extras`), because those products are computed all the same.
"""

from typing import NamedTuple

from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.t5 import T5Config


class Products(NamedTuple):
    """Multiply-adds of a forward pass: with weights, and between activations (attention scores, mixing)."""

    weights: float
    scores: float = 0.0

    def plus(self, *others: "Products") -> "Products":
        return Products(*map(sum, zip(self, *others, strict=True)))

    def times(self, count: float) -> "Products":
        return Products(count * self.weights, count * self.scores)


def attention(queries, keys, width, inner, *, own_keys=True, seen=1.0) -> Products:
    """Projections of ``queries`` positions, scores over ``keys`` of which a share is ``seen``."""
    projections = (4 if own_keys else 2) * queries * width * inner
    return Products(projections, 2 * seen * queries * keys * inner)


def vit(config) -> Products:
    """One picture."""
    tokens, width = config.grid**2 + 1, config.hidden_size
    layer = attention(tokens, tokens, width, width).plus(Products(2 * tokens * width * config.intermediate_size))
    return layer.times(config.num_hidden_layers).plus(patches(config))


def patches(config) -> Products:
    """The patch embedding of one picture."""
    return Products(config.grid**2 * config.patch_size**2 * 3 * config.hidden_size)


def qformer(config, queries, text, image) -> tuple[Products, Products]:
    """All but the keys and values of the image; and these."""
    width, layers = config.hidden_size, config.num_hidden_layers
    crossing = -(-layers // config.cross_attention_frequency)
    own = attention(queries + text, queries + text, width, width).times(layers)
    cross = attention(queries, image, width, width, own_keys=False).times(crossing)
    # The last layer's output at the text is not read.
    dense = Products(2 * width * config.intermediate_size * (layers * queries + (layers - 1) * text))
    return own.plus(cross, dense), Products(crossing * 2 * image * config.encoder_hidden_size * width)


def language_model(config, prompt, response) -> Products:
    """``prompt`` positions (visual and instruction) and ``response`` tokens, the head over the latter."""
    head = Products(response * config.width * config.vocab_size)
    if isinstance(config, T5Config):
        width, inner = config.d_model, config.num_heads * config.d_kv
        dense = 3 * width * config.d_ff
        encoder = attention(prompt, prompt, width, inner).plus(Products(prompt * dense))
        decoder = attention(response, response, width, inner, seen=0.5)
        cross = attention(response, prompt, width, inner, own_keys=False).plus(Products(2 * prompt * width * inner))
        decoder = decoder.plus(cross, Products(response * dense))
        return head.plus(encoder.times(config.num_layers), decoder.times(config.num_decoder_layers))
    width, length = config.width, prompt + response
    dense = 3 * config.intermediate_size if isinstance(config, LlamaConfig) else 2 * config.ffn_dim
    layer = attention(length, length, width, width, seen=0.5).plus(Products(length * width * dense))
    return head.plus(layer.times(config.num_hidden_layers))


def example(config, prompt, response, trained, frames=1) -> dict[str, float]:
    """FLOPs of one example in one training step, by part. ``trained``: the path prefixes of the trainable set.

    Forward, gradient of the input, gradient of the weight: two FLOPs a multiply-add each. A frozen weight has no
    gradient, a score has two; no gradient enters the image tokens unless something before them trains.
    """
    queries = config.num_query_tokens
    deepest, into_image, deep = "vit" in trained, any(p.startswith("vit") for p in trained), "qformer" in trained
    tower = vit(config.vision)
    inside, image = qformer(config.qformer, queries, prompt, config.vision.grid**2 + 1)
    words = language_model(config.text, queries * frames + prompt, response)
    seen = 3 * sum(tower) - patches(config.vision).weights if deepest else sum(tower)  # the pixels have no gradient
    return {
        "vit": 2 * frames * seen,
        "qformer": 2 * frames * ((3 if deep else 1) * sum(inside) + (1 + deep + into_image) * image.weights),
        "projector": 2 * frames * (2 + deep) * queries * config.qformer.hidden_size * config.text.width,
        "llm": 2 * (2 * words.weights + 3 * words.scores),
    }


def extras(config, prompt, response, trained) -> float:
    """FLOPs of one example that the trace has on top: scores that a causal mask hides; logits at the prompt and on the
    padding of the last chunk of positions; and the last feed-forward of the Q-Former's text, which nobody reads."""
    text, queries = config.text, config.num_query_tokens
    chunk, width = 64, text.width
    if isinstance(text, T5Config):
        hidden = text.num_decoder_layers * response**2 * text.num_heads * text.d_kv
        positions = response
    else:
        hidden = text.num_hidden_layers * (queries + prompt + response) ** 2 * width
        positions = prompt + response
    padded = positions if positions <= chunk else -(-positions // chunk) * chunk
    unread = 2 * config.qformer.hidden_size * config.qformer.intermediate_size * prompt
    passes = 3 if "qformer" in trained else 1
    return 6 * hidden + 4 * (padded - response) * width * text.vocab_size + 2 * passes * unread
