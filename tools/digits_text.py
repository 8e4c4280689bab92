"""Scenes as text, and questions about them: the training data of both of the digits world's language models.

A scene precedes the instruction as vectors, in place of the later visual prompt: its cells in any order, each as
three word embeddings or as a bag (their sum), mixed with copies of cells and fillers, plus a little noise. The models
thus learn to rely on the contents of the vectors rather than on their order, and to tolerate deviations.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tokenizers import Tokenizer
from tqdm import tqdm

from instructblip_jax.datasets.digits.scene import Scene
from instructblip_jax.datasets.digits.tasks import TASKS

SLOTS = 16
LONG = ("caption", "describe", "ask")  # answers of up to 24 tokens; the others have at most 8
NOISE = 0.2  # relative to the root mean square of the embeddings
SHORT = (*(kind for kind in TASKS if kind not in LONG), "count", "count", "count", "next_to")  # harder kinds more often
GROUPS = {LONG: 0.3, SHORT: 0.7}  # kinds -> their share


def slots(
    tokenizer: Tokenizer, scene: Scene, rng: np.random.Generator, spelling: float = 1.0, count: int = SLOTS
) -> np.ndarray:
    """A scene as ``count`` bags of up to three word ids, int32 [count, 3], padded with 0.

    ``spelling``: 0 for bags only, 1 for a mixture of bags and spelled-out words.
    """
    cells = [[tokenizer.token_to_id(f"\u2581{w}") for w in (c.place, c.colour, str(c.digit))] for c in scene.cells]
    spelled = rng.random(len(cells)) < spelling * rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.2, 0.2])
    parts = [[[word] for word in cell] if alone else [cell] for cell, alone in zip(cells, spelled, strict=True)]
    free = count - sum(map(len, parts))
    copies = int(rng.integers(free + 1)) if rng.random() < 0.5 else 0
    for n in range(free):
        cell = cells[int(rng.integers(len(cells)))]
        words = [cell[i] for i in rng.choice(3, int(rng.integers(2, 4)), replace=False)]
        parts.append([words if n < copies else [tokenizer.token_to_id("\u2581,")]])
    bags = [bag for i in rng.permutation(len(parts)) for bag in parts[i]]
    return np.array([bag + [0] * (3 - len(bag)) for bag in bags], np.int32)


def embedded(model: Any, bags: jax.Array, key: jax.Array | None) -> jax.Array:
    """Bags of word ids int [B, S, 3] -> their vectors [B, S, D]; with a ``key`` (training), plus noise."""
    words = model.embed(bags) * (bags > 0)[..., None]  # [B, S, 3, D]
    scene = words.sum(2)
    if key is None:
        return scene
    size = jnp.sqrt(jnp.mean(jnp.square(scene)))
    return scene + NOISE * size * jax.random.normal(key, scene.shape)


def greedy(model: Any, context: Any, first: jax.Array, length: int) -> jax.Array:
    """The answers int32 [B, length] to prefilled prompts; ``first`` int [B]: the decoder's first input token."""
    cache = model.init_cache(context, 1, length)

    def step(carry, index):
        ids, cache = carry
        logits, cache = model.decode(ids[:, None, None], context, cache, index)
        ids = jnp.argmax(logits[:, 0, 0], -1).astype(jnp.int32)
        return (ids, cache), ids

    return jax.lax.scan(step, (first, cache), jnp.arange(length))[1].T


def right_share(tokenizer: Tokenizer, answers: np.ndarray, accepted: Sequence[Sequence[str]], end: int) -> float:
    """Exact match of answers int [B, T], which end with the token ``end``."""
    right = 0
    for row, texts in zip(answers, accepted, strict=True):
        text = tokenizer.decode(list(row[: list(row).index(end)] if end in row else row))
        right += text in texts
    return right / len(accepted)


def train(
    make: Callable[[nnx.Rngs], Any],
    batches: Callable[[np.random.Generator], Iterable[tuple[str, dict]]],
    loss: Callable[[Any, dict, jax.Array], jax.Array],
    accuracy: Callable[[Any, Any], dict[str, float]],
    steps: int,
    rate: float = 2e-3,
    seed: int = 0,
) -> dict:
    """Train the model of ``make`` for ``steps``; returns its parameters as an nnx pure dict.

    Args:
      make: rngs -> the model.
      batches: rng -> (name, arrays) of each step.
      loss: (model, arrays, key) -> its mean over the tokens of a batch.
      accuracy: (graph, parameters) -> exact match of each kind.
    """
    graph, state = nnx.split(make(nnx.Rngs(seed)))
    params = nnx.to_pure_dict(state)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps, rate / 100), weight_decay=0.01),
    )
    opt = tx.init(params)

    @jax.jit
    def step(params, opt, data, key):
        value, grads = jax.value_and_grad(lambda params: loss(nnx.merge(graph, params), data, key))(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    drawn = iter(batches(np.random.default_rng(seed)))
    begun = time.time()
    for n in (bar := tqdm(range(steps), mininterval=10)):
        name, data = next(drawn)
        params, opt, value = step(params, opt, data, jax.random.fold_in(jax.random.key(seed), n))
        if n % 100 == 0:
            bar.write(f"step {n} {name}: loss {float(value):.4f}, {time.time() - begun:.0f} s")
        if n % 1000 == 999:
            bar.write(str(accuracy(graph, params)))
    print("language model, exact match on fresh text-only scenes:", accuracy(graph, params))
    return params
