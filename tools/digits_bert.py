"""The digits world's BERT: a small one that learns to fill in masked words (arXiv 1810.04805) of questions and answers.

Half of the texts have no commas and hyphens, as ALBEF cleans captions.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from digits_llama import asked
from digits_text import train as train_model
from flax import nnx
from tokenizers import Tokenizer

from instructblip_jax.datasets.digits.records import question
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack, LmHead
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.objectives.lm import token_cross_entropy

BATCH, LENGTH = 64, 28
CAPTIONS = ("caption", "describe")
SHARE_OF_CAPTIONS = 0.5
MASKED, REPLACED, RANDOM = 0.15, 0.8, 0.1  # share of the tokens; of these become [MASK], become any token (section 3.1)
SPECIAL = 5  # the first ids
PAD, MASK = 0, 4


class MaskedBert(nnx.Module):
    """An encoder and its head."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.embeddings = BertEmbeddings(config, dtype=jnp.float32, rngs=rngs)
        self.layers = BertStack(config, config.num_hidden_layers, cross=False, dtype=jnp.float32, rngs=rngs)
        self.head = LmHead(config, dtype=jnp.float32, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """ids int [B, T] -> float32 logits [B, T, V]."""
        x = self.layers(self.embeddings(ids), mask_bias(ids != PAD))
        return self.head(x, self.embeddings.word)


def text(rng: np.random.Generator) -> str:
    """A caption, or a question with its answer; half of them without commas and hyphens."""
    kinds = CAPTIONS if rng.random() < SHARE_OF_CAPTIONS else tuple(TASKS)
    name = kinds[int(rng.integers(len(kinds)))]
    words, answer, _ = asked(name, question(name, rng)[1], rng)
    found = answer if name in CAPTIONS else f"{words} {answer}"
    return found.replace(" ,", "").replace("-", " ") if rng.random() < 0.5 else found


def masked(tokenizer: Tokenizer, rng: np.random.Generator, count: int = BATCH) -> dict[str, np.ndarray]:
    """Fresh texts: corrupted ids int32 [B, T], and labels, the ids where some were chosen and -100 elsewhere."""
    found = [one.ids[:LENGTH] for one in tokenizer.encode_batch([text(rng) for _ in range(count)])]
    ids = np.array([row + [PAD] * (LENGTH - len(row)) for row in found], np.int32)
    chosen = (ids >= SPECIAL) & (rng.random(ids.shape) < MASKED)
    fate = rng.random(ids.shape)
    others = rng.integers(SPECIAL, tokenizer.get_vocab_size(), ids.shape)
    corrupted = np.where(fate < REPLACED, MASK, np.where(fate < REPLACED + RANDOM, others, ids))
    return {"ids": np.where(chosen, corrupted, ids).astype(np.int32), "labels": np.where(chosen, ids, -100)}


def loss(model: MaskedBert, data: dict, key: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the chosen words."""
    total, count = map(jnp.sum, token_cross_entropy(model(data["ids"]), data["labels"]))
    return total / count


def accuracy(graph: nnx.GraphDef, params: dict, tokenizer: Tokenizer, batches: int = 20) -> dict[str, float]:
    """Share of the chosen words of fresh texts that are found."""
    rng = np.random.default_rng(10**6)
    right = []
    answer = jax.jit(lambda params, ids: nnx.merge(graph, params)(ids).argmax(-1))
    for _ in range(batches):
        data = masked(tokenizer, rng)
        right.append((np.asarray(answer(params, data["ids"])) == data["labels"])[data["labels"] >= 0])
    return {"masked words": float(np.concatenate(right).mean())}


def train(config: BertConfig, tokenizer: Tokenizer, steps: int, seed: int = 0) -> dict:
    """Train a model for ``steps``; returns its parameters as an nnx pure dict."""

    def batches(rng: np.random.Generator) -> Iterator[tuple[str, dict]]:
        while True:
            yield "masked words", masked(tokenizer, rng)

    return train_model(
        lambda rngs: MaskedBert(config, rngs),
        batches,
        loss,
        lambda graph, params: accuracy(graph, params, tokenizer),
        steps,
        rate=1e-3,
        seed=seed,
    )
