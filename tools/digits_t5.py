"""The digits world's first language model: a small T5 that learns every task from text only, like FlanT5."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from digits_text import GROUPS, LONG, embedded, greedy, right_share, slots
from digits_text import train as train_model
from flax import nnx
from tokenizers import Tokenizer

from instructblip_jax.datasets.digits.records import question
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.digits.templates import TEMPLATES
from instructblip_jax.models.language.t5 import T5, T5Config
from instructblip_jax.objectives.lm import token_cross_entropy

INSTRUCTION = 28


def response_length(name: str) -> int:
    """Static number of answer tokens of a kind, including the end token."""
    return 24 if name in LONG else 8


def batch(
    tokenizer: Tokenizer,
    names: list[str],
    rng: np.random.Generator,
    *,
    spelling: float = 1.0,
    first_template: bool = False,
) -> dict:
    """Token arrays, one sample per name: scene [B, 16, 3], instruction [B, 28] and its mask, labels [B, 8 or 24]."""
    scenes, texts, answers, accepted = [], [], [], []
    for name in names:
        scene, (values, right) = question(name, rng)
        templates = TEMPLATES[name]
        text = templates[0 if first_template else int(rng.integers(len(templates)))].format(**values)
        scenes.append(slots(tokenizer, scene, rng, spelling))
        texts.append(text)
        answers.append(right[int(rng.integers(len(right)))])
        accepted.append(right)
    out = {"scene": np.array(scenes, np.int32), "accepted": accepted}
    for key, length, lines, fill in (
        ("ids", INSTRUCTION, texts, 0),
        ("labels", max(map(response_length, names)), answers, -100),
    ):
        out[key] = np.full((len(names), length), fill, np.int32)
        for n, encoding in enumerate(tokenizer.encode_batch(lines)):
            out[key][n, : len(encoding.ids)] = encoding.ids
    out["mask"] = (out["ids"] != 0).astype(np.int32)
    return out


def inputs(model: T5, data: dict, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Encoder input [scene ; instruction] and its mask; with a ``key`` (training), the scene's embeddings get noise."""
    scene = embedded(model, data["scene"], key)
    x = jnp.concatenate([scene, model.embed(data["ids"])], axis=1)
    mask = jnp.concatenate([jnp.ones(scene.shape[:2], jnp.int32), data["mask"]], axis=1)
    return x, mask


def accuracy(graph, params, tokenizer: Tokenizer, per_kind: int = 200, seed: int = 10**6) -> dict[str, float]:
    """Exact match of greedy answers, for each kind, over new scenes."""

    @jax.jit
    def answer(params, data):
        model = nnx.merge(graph, params)
        context = model.prefill(*inputs(model, data, None))
        return greedy(model, context, jnp.zeros(len(data["ids"]), jnp.int32), data["labels"].shape[1])

    result = {}
    for name in TASKS:
        data = batch(tokenizer, [name] * per_kind, np.random.default_rng(seed), first_template=True)
        accepted = data.pop("accepted")
        result[name] = right_share(tokenizer, np.asarray(answer(params, data)), accepted, end=1)
    return result


def loss(model: T5, data: dict, key: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the answers' tokens."""
    x, mask = inputs(model, data, key)
    labels = data["labels"]
    start = jnp.zeros((labels.shape[0], 1), jnp.int32)
    previous = jnp.where(labels[:, :-1] == -100, 0, labels[:, :-1])
    logits = model.logits(model.run_decoder(jnp.concatenate([start, previous], 1), model.encode(x, mask), mask))
    total, count = map(jnp.sum, token_cross_entropy(logits, labels))
    return total / count


def train(config: T5Config, tokenizer: Tokenizer, steps: int, size: int = 128, seed: int = 0) -> dict:
    """Train a model on ``steps`` batches of ``size`` samples; returns its parameters as an nnx pure dict."""

    def batches(rng: np.random.Generator) -> Iterator[tuple[str, dict]]:
        for n in range(steps):
            kinds = list(GROUPS)[int(rng.choice(len(GROUPS), p=list(GROUPS.values())))]
            names = [kinds[i] for i in rng.integers(len(kinds), size=size)]
            # Bags first: the model learns sooner to find a cell by one of its words if its other words are in the same
            # vector.
            data = batch(tokenizer, names, rng, spelling=float(n > steps // 3))
            del data["accepted"]
            yield kinds[0], data

    return train_model(
        lambda rngs: T5(config, dtype=jnp.float32, rngs=rngs),
        batches,
        loss,
        lambda graph, params: accuracy(graph, params, tokenizer),
        steps,
        seed=seed,
    )
