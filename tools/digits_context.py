"""The digits world's language model for in-context learning: a small LLaMA, trained on text that names things.

A document gives made-up names to a few things, and repeatedly shows one of them, by one or two vectors in place of an
image, followed by its name. The names are drawn anew for each document, so that only the context gives them. A thing
is a colour and a digit, as the sum of their word embeddings, or a random vector that belongs to no word.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from digits_llama import BEGIN, END, begun
from digits_text import train as train_model
from flax import nnx
from tokenizers import Tokenizer

from instructblip_jax.datasets.digits.naming import NAMES
from instructblip_jax.datasets.digits.scene import COLOURS
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.objectives.lm import IGNORE

FORMS = {"": 0.4, "this is a": 0.35, "a": 0.1, "output :": 0.15}
"""Words between a thing and its name -> their share."""
GAPS, GAP_SHARES = ("", ".", "</s>"), (0.6, 0.25, 0.15)  # after a name
WORDS = sorted({*COLOURS, *map(str, range(10)), *NAMES, *" ".join(FORMS).replace(":", "").split()})
KINDS = {
    "pair": 0.15,
    "digit": 0.15,
    "digit_free": 0.15,
    "colour": 0.1,
    "colour_free": 0.1,
    "random": 0.25,
    "real": 0.1,
}
"""Things that a document names -> their share: pairs of a colour and a digit; digits, all in one colour or each in any;
colours; random vectors; and pairs by their ordinary words."""
ROWS, MOST = 32, 10  # documents per batch, and maximum number of examples per document
LENGTHS = {28: 0.75, 60: 0.25}
"""Tokens of a batch's documents -> its share."""
SMALL = 0.1  # the weight of tokens that the context does not determine


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text, without the one before all texts."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def things(kind: str, ways: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` examples of ``ways`` things of this kind: their classes [count], and colours and digits [count, 2]."""
    rounds = rng.random() < 0.5
    classes = np.concatenate([rng.permutation(ways) for _ in range(-(-count // ways))])[:count]
    if not rounds:
        classes = rng.integers(ways, size=count)
    colours, digits = rng.integers(len(COLOURS), size=count), rng.integers(10, size=count)
    if kind in ("pair", "real", "random"):
        own = rng.choice(len(COLOURS) * 10, ways, replace=False)[classes]
        colours, digits = own // 10, own % 10
    elif kind.startswith("digit"):
        digits = rng.choice(10, ways, replace=False)[classes]
    else:
        colours = rng.choice(len(COLOURS), ways, replace=False)[classes]
    if kind == "digit":
        colours[:] = colours[0]
    if kind == "colour":
        digits[:] = digits[0]
    return classes, np.stack([colours, digits], 1)


class Writer:
    """Writes documents as arrays: ids, labels and weights [T], classes [T] of random things, bags [T, 2] of words."""

    def __init__(self, tokenizer: Tokenizer):
        self.colours = np.array([ids_of(tokenizer, colour)[0] for colour in COLOURS])
        self.digits = np.array([ids_of(tokenizer, str(digit))[0] for digit in range(10)])
        self.names = np.array([ids_of(tokenizer, name)[0] for name in NAMES])
        self.forms = [ids_of(tokenizer, form) for form in FORMS]
        self.gaps = [[], ids_of(tokenizer, "."), [END]]

    def document(self, kind: str, form: int, gap: int, ways: int, count: int, vectors: int, length: int, rng) -> dict:
        """``count`` examples of ``ways`` things, or as many as fit; the last one's name is ``answer``."""
        between, behind = self.forms[form], self.gaps[gap]
        said = 2 if kind == "real" else 1
        count = min(count, (length - 2) // (vectors + len(between) + said + len(behind)))
        classes, shown = things(kind, ways, count, rng)
        called = rng.choice(self.names, ways, replace=False)
        apart = vectors == 2 and rng.random() < 0.5  # colour and digit, in either order
        swap = int(rng.integers(2))
        out = {
            "ids": np.zeros(length, np.int32),
            "labels": np.full(length, IGNORE, np.int32),
            "weights": np.zeros(length, np.float32),
            "classes": np.full(length, -1, np.int32),
            "bags": np.zeros((length, 2), np.int32),
            "picture": np.zeros(length, bool),
        }
        out["ids"][0] = BEGIN
        at, seen = 1, set()
        for n, (thing, (colour, digit)) in enumerate(zip(classes, shown, strict=True)):
            words = [self.colours[colour], self.digits[digit]]
            out["picture"][at : at + vectors] = True
            if kind == "random":
                out["classes"][at : at + vectors] = thing
            else:
                for k in range(vectors):
                    out["bags"][at + k] = [words[k ^ swap], 0] if apart else words
            at += vectors
            name = words if kind == "real" else [called[thing]]
            text = [*between, *name, *(behind if n + 1 < count else [END])]
            known = thing in seen or kind == "real"
            weights = (
                [SMALL] * len(between) + [1.0 if known else SMALL] * said + [SMALL] * (len(text) - len(between) - said)
            )
            out["ids"][at : at + len(text)] = text
            out["labels"][at - 1 : at - 1 + len(text)] = text
            out["weights"][at - 1 : at - 1 + len(text)] = weights
            out["last"] = at - 1 + len(between)
            at += len(text)
            out["known"] = known
            seen.add(thing)
        out["length"] = at
        return out

    def first(self, rng: np.random.Generator) -> dict:
        """A batch of the simplest documents: one vector, immediately followed by its name."""
        rows = []
        for kind in rng.choice(["pair", "random"], 2 * ROWS):
            rows.append(self.document(kind, 0, 0, int(rng.integers(2, 6)), 11, 1, 24, rng))
        return stacked(rows)

    def batch(self, rng: np.random.Generator) -> dict:
        """A batch of documents of all kinds."""
        rows, length = [], int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
        for kind in rng.choice(list(KINDS), ROWS, p=list(KINDS.values())):
            form = int(rng.choice(len(FORMS), p=list(FORMS.values())))
            gap = int(rng.choice(len(GAPS), p=GAP_SHARES))
            rows.append(
                self.document(
                    kind,
                    form,
                    gap,
                    int(rng.integers(2, 6)),
                    int(rng.integers(3, MOST + 1)),
                    int(rng.integers(1, 3)),
                    length,
                    rng,
                )
            )
        return stacked(rows)


def stacked(rows: list[dict]) -> dict:
    """Documents as one batch."""
    return {key: np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]}


def inputs(model, data: dict, key: jax.Array, noise: float) -> jax.Array:
    """The language model's input [B, T, D]: words, and vectors with noise in place of images."""
    first, second, third = jax.random.split(key, 3)
    words = model.embed(data["ids"])
    bags = (model.embed(data["bags"]) * (data["bags"] > 0)[..., None]).sum(2)
    size = jnp.sqrt(jnp.mean(jnp.square(model.tokens.embedding[...])))
    own = size * jax.random.normal(first, (len(words), 8, words.shape[-1])) * 1.4
    thing = jnp.take_along_axis(own, jnp.maximum(data["classes"], 0)[..., None], axis=1)
    shown = jnp.where((data["classes"] >= 0)[..., None], thing, bags)
    amount = noise * jax.random.uniform(second, (len(words), 1, 1)) * size
    shown = shown + amount * jax.random.normal(third, shown.shape)
    return jnp.where(data["picture"][..., None], shown, words)


def loss(model, data: dict, key: jax.Array) -> jax.Array:
    """The weighted mean of the negative log-likelihood of all words."""
    x = inputs(model, data, key, 0.6)
    mask = jnp.arange(x.shape[1])[None] < data["length"][:, None]
    logits = model.logits(model.run(x, mask))
    each = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(data["labels"], 0)[..., None], axis=-1)[..., 0]
    return jnp.sum(each * data["weights"]) / jnp.sum(data["weights"])


def accuracy(graph, params, tokenizer: Tokenizer, rows: int = 200, seed: int = 10**6) -> dict[str, float]:
    """Share of documents whose last name is right, "kind/form/names x examples", if the thing was named before."""
    writer = Writer(tokenizer)

    @jax.jit
    def right(params, data):
        model = nnx.merge(graph, params)
        x = inputs(model, data, jax.random.key(seed), 0.3)
        mask = jnp.arange(x.shape[1])[None] < data["length"][:, None]
        said = jnp.argmax(model.logits(model.run(x, mask)), -1)
        return jnp.take_along_axis(said == data["labels"], data["last"][:, None], axis=1)[:, 0]

    result = {}
    for kind in KINDS:
        for form in (0, 1):
            for ways, count in ((2, 3), (2, 9), (4, 9)):
                rng = np.random.default_rng(seed)
                data = stacked([writer.document(kind, form, 0, ways, count, 1 + n % 2, 60, rng) for n in range(rows)])
                known = data["known"]
                result[f"{kind}/{form}/{ways}x{count - 1}"] = round(
                    float(np.asarray(right(params, data))[known].mean()), 3
                )
    return result


def train(config: LlamaConfig, tokenizer: Tokenizer, steps: int, seed: int = 0) -> dict:
    """Train a model for ``steps``; returns its parameters as an nnx pure dict."""
    writer = Writer(tokenizer)

    def batches(rng: np.random.Generator) -> Iterator[tuple[str, dict]]:
        n = 0
        while True:
            yield "documents", writer.first(rng) if n < steps // 3 else writer.batch(rng)
            n += 1

    return train_model(
        lambda rngs: begun(config, rngs),
        batches,
        loss,
        lambda graph, params: accuracy(graph, params, tokenizer),
        steps,
        rate=3e-3,
        seed=seed,
    )
