"""The digits world's language model for four modalities: a small LLaMA that learns, from text only, to compare things.

A row shows one or two things. Each is a cue (such as " image: ") and one to eight vectors in place of a Q-Former's
output: the embedding of a digit's word, scaled and with noise, among uninformative vectors. No tower's output is used,
and the cues are independent of the digits, so that the model treats all modalities alike.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from digits_llama import BEGIN, END, begun
from digits_text import train as train_model
from flax import nnx
from tokenizers import Tokenizer

from instructblip_jax.datasets.digits.questions import FACTS, WORDINGS, about, draw, words
from instructblip_jax.models.language.llama import Llama, LlamaConfig
from instructblip_jax.objectives.lm import token_cross_entropy

CUES = (" image: ", " 3d: ", " video: ", " audio: ")
WORDS = sorted({*words(), *"".join(CUES).replace(":", "").split()})
SINGLE, PAIRS = ("name", *FACTS), ("larger", "same")
ROWS, QUESTIONS = 24, 8  # per batch; per row
MOST = 8  # vectors per thing
CONTEXT, TURN = 2 * (3 + MOST), 16  # tokens: things with their cues; a question with its answer
NOISE = (0.8, 2.5)  # maximum, relative to the size of a digit's embedding
PAIRED = 0.7  # share of rows with two things


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text, without the one before all texts."""
    return tokenizer.encode(text, add_special_tokens=False).ids


class Writer:
    """Writes rows as arrays; see `row`."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.cues = [ids_of(tokenizer, cue) for cue in CUES]
        self.digits = np.array([ids_of(tokenizer, str(digit))[0] for digit in range(10)])
        self.known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = ids_of(self.tokenizer, text)
        return self.known[text]

    def row(self, kind: str, rng: np.random.Generator, *, plain: bool, questions: int, first: bool) -> dict:
        """One or two things, and questions about them; those after the first are of any suitable kind, and about the
        same things.

        Arrays: ids, digits (0 to 9; -1 for an uninformative vector, -2 for a word) and mask [CONTEXT], turns and
        labels [questions, TURN]. ``plain``: one vector per thing, which has its digit.
        """
        asked = [draw(kind, rng, first=first)]
        shown = asked[0].digits
        kinds = SINGLE if len(shown) == 1 else PAIRS if shown[0] != shown[1] else ("same",)
        asked += [about(str(rng.choice(kinds)), shown, rng, first=first) for _ in range(questions - 1)]
        begin = (BEGIN, END)[int(rng.integers(2))]
        every = rng.random() < 0.5  # a start token before each cue and the question, or only before the first cue
        ids, digits = [], []
        for n, digit in enumerate(shown):
            cue = [begin] * (every or n == 0) + self.cues[int(rng.integers(len(CUES)))]
            count = 1 if plain else int(rng.integers(1, MOST + 1))
            says = rng.random(count) < rng.choice([0.3, 0.7, 1.0])
            says[int(rng.integers(count))] = True
            ids += cue + [0] * count
            digits += [-2] * len(cue) + [digit if said else -1 for said in says]
        turns = np.zeros((questions, TURN), np.int32)
        labels = np.full((questions, TURN), -100, np.int32)
        for n, one in enumerate(asked):
            prompt, answer = [begin] * every + self.ids(one.text), [*self.ids(one.answer), END]
            turns[n, : len(prompt) + len(answer)] = prompt + answer
            labels[n, len(prompt) : len(prompt) + len(answer)] = answer
        free = CONTEXT - len(ids)
        return {
            "ids": np.array(ids + [0] * free, np.int32),
            "digits": np.array(digits + [-2] * free, np.int32),
            "mask": np.arange(CONTEXT) < len(ids),
            "turns": turns,
            "labels": labels,
        }

    def batch(self, rng: np.random.Generator, *, plain: bool) -> dict:
        """Rows of all kinds."""
        rows = []
        for paired in rng.random(ROWS) < PAIRED:
            kind = str(rng.choice(PAIRS if paired else SINGLE))
            rows.append(self.row(kind, rng, plain=plain, questions=QUESTIONS, first=False))
        return stacked(rows)


def stacked(rows: list[dict]) -> dict:
    """Rows as one batch."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def inputs(model: Llama, data: dict, words: jax.Array, key: jax.Array, noise: float) -> jax.Array:
    """The things of a batch as the language model's input [B, CONTEXT, D]: words, and vectors for digits, scaled by 0.5
    to 2.

    Noise of up to ``noise`` times the size of an embedding is added to all of them: one part is the same for all
    vectors of a row, another is drawn for each vector. ``words``: the ids of the digits' words [10].
    """
    scale, amount, shared, each, empty = jax.random.split(key, 5)
    size = jnp.sqrt(jnp.mean(jnp.square(model.embed(words))))
    shape = data["ids"].shape
    vectors = model.embed(words[jnp.maximum(data["digits"], 0)])
    vectors = vectors * jnp.exp2(jax.random.uniform(scale, (shape[0], 1, 1), minval=-1, maxval=1))
    nothing = size * jax.random.uniform(empty, (*shape, 1)) * jax.random.normal(empty, vectors.shape)
    vectors = jnp.where((data["digits"] == -1)[..., None], nothing, vectors)
    amounts = noise * size * jax.random.uniform(amount, (2, shape[0], 1, 1)) / 2**0.5
    vectors += amounts[0] * jax.random.normal(shared, (shape[0], 1, vectors.shape[-1]))
    vectors += amounts[1] * jax.random.normal(each, vectors.shape)
    return jnp.where((data["digits"] == -2)[..., None], model.embed(data["ids"]), vectors)


def answered(model: Llama, data: dict, words: jax.Array, key: jax.Array, noise: float) -> jax.Array:
    """Logits of the turns' next tokens [B, N, TURN - 1, V]."""
    x = inputs(model, data, words, key, noise)
    context = model.prefill(x, data["mask"]) | {"mask": data["mask"]}  # turns follow; no token of the context does
    return model.decode(data["turns"][..., :-1], context)[0]


def accuracy(graph, params, tokenizer: Tokenizer, noise: float = 1.0, rows: int = 500, seed: int = 10**6) -> dict:
    """Share of right answers of each kind in its first wording, over new rows with up to `MOST` vectors per thing."""
    writer = Writer(tokenizer)

    @jax.jit
    def right(params, data):
        logits = answered(nnx.merge(graph, params), data, jnp.asarray(writer.digits), jax.random.key(seed), noise)
        wanted = data["labels"][..., 1:]
        return jnp.all((jnp.argmax(logits, -1) == wanted) | (wanted < 0), -1)

    found = {}
    for kind in WORDINGS:
        rng = np.random.default_rng(seed)
        data = stacked([writer.row(kind, rng, plain=False, questions=1, first=True) for _ in range(rows)])
        found[kind] = round(float(np.mean(np.asarray(right(params, data)))), 3)
    return found


def train(config: LlamaConfig, tokenizer: Tokenizer, steps: int, seed: int = 0) -> dict:
    """Train a model for ``steps``: a quarter of them with one vector per thing and half with several, both with
    `NOISE[0]`, the rest with `NOISE[1]`. Returns its parameters as an nnx pure dict."""
    writer = Writer(tokenizer)
    digits = jnp.asarray(writer.digits)

    def batches(rng: np.random.Generator) -> Iterator[tuple[str, dict]]:
        n = 0
        while True:
            noise = NOISE[int(n >= 0.75 * steps)]
            yield "rows", writer.batch(rng, plain=n < steps // 4) | {"noise": np.float32(noise)}
            n += 1

    def loss(model: Llama, data: dict, key: jax.Array) -> jax.Array:
        logits = answered(model, data, digits, key, data["noise"])
        total, count = map(jnp.sum, token_cross_entropy(logits, data["labels"][..., 1:]))
        return total / count

    return train_model(
        lambda rngs: begun(config, rngs),
        batches,
        loss,
        lambda graph, params: accuracy(graph, params, tokenizer),
        steps,
        rate=3e-3,
        seed=seed,
    )
