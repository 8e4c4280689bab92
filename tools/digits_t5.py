"""The digits world's language model: a small T5 that learns every task from text alone, as FlanT5 has its own.

A scene precedes the instruction as 16 vectors, in the place of the later visual prompt: its cells in any order, each as
three word embeddings or as a bag (their sum), mixed with copies of cells and fillers, plus a little noise. The model
thus learns to rely on the contents of the vectors rather than on their order, and to tolerate deviations.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tokenizers import Tokenizer
from tqdm import tqdm

from instructblip_jax.datasets.digits.records import question
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.digits.templates import TEMPLATES
from instructblip_jax.models.language.t5 import T5, T5Config
from instructblip_jax.objectives.lm import token_cross_entropy

SLOTS, INSTRUCTION = 16, 28
LONG = ("caption", "describe", "ask")  # answers of up to 24 tokens; the others have at most 8
NOISE = 0.2  # relative to the root mean square of the embeddings
SHORT = (*(kind for kind in TASKS if kind not in LONG), "count", "count", "count", "next_to")  # harder kinds more often
GROUPS = {LONG: 0.3, SHORT: 0.7}  # kinds -> their share of the steps


def slots(tokenizer: Tokenizer, scene, rng: np.random.Generator, spelling: float = 1.0) -> np.ndarray:
    """A scene as 16 bags of up to three word ids, int32 [16, 3], filled up with 0.

    ``spelling``: 0 for bags only, 1 for a mixture of bags and spelled-out words.
    """
    cells = [[tokenizer.token_to_id(f"\u2581{w}") for w in (c.place, c.colour, str(c.digit))] for c in scene.cells]
    spelled = rng.random(len(cells)) < spelling * rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.2, 0.2])
    parts = [[[word] for word in cell] if alone else [cell] for cell, alone in zip(cells, spelled, strict=True)]
    free = SLOTS - sum(map(len, parts))
    copies = int(rng.integers(free + 1)) if rng.random() < 0.5 else 0
    for n in range(free):
        cell = cells[int(rng.integers(len(cells)))]
        words = [cell[i] for i in rng.choice(3, int(rng.integers(2, 4)), replace=False)]
        parts.append([words if n < copies else [tokenizer.token_to_id("\u2581,")]])
    bags = [bag for i in rng.permutation(len(parts)) for bag in parts[i]]
    return np.array([bag + [0] * (3 - len(bag)) for bag in bags], np.int32)


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
    """Token arrays of one sample per name: scene [B, 16, 3], instruction [B, 28] and its mask, labels [B, 8 or 24]."""
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
    words = model.embed(data["scene"]) * (data["scene"] > 0)[..., None]  # [B, S, 3, D]
    scene, text = words.sum(2), model.embed(data["ids"])
    x = jnp.concatenate([scene, text], axis=1)
    if key is not None:
        size = jnp.sqrt(jnp.mean(jnp.square(scene)))
        x = x.at[:, :SLOTS].add(NOISE * size * jax.random.normal(key, scene.shape))
    mask = jnp.concatenate([jnp.ones(scene.shape[:2], jnp.int32), data["mask"]], axis=1)
    return x, mask


def accuracy(graph, params, tokenizer: Tokenizer, per_kind: int = 200, seed: int = 10**6) -> dict[str, float]:
    """Exact match of greedy answers, for each kind, over new scenes."""

    @jax.jit
    def answer(params, data):
        model = nnx.merge(graph, params)
        context = model.prefill(*inputs(model, data, None))
        length = data["labels"].shape[1]
        cache = model.init_cache(context, 1, length)

        def step(carry, index):
            ids, cache = carry
            logits, cache = model.decode(ids[:, None, None], context, cache, index)
            ids = jnp.argmax(logits[:, 0, 0], -1).astype(jnp.int32)
            return (ids, cache), ids

        start = jnp.zeros(len(data["ids"]), jnp.int32)
        return jax.lax.scan(step, (start, cache), jnp.arange(length))[1].T

    result = {}
    for name in TASKS:
        data = batch(tokenizer, [name] * per_kind, np.random.default_rng(seed), first_template=True)
        accepted = data.pop("accepted")
        right = 0
        for row, answers in zip(np.asarray(answer(params, data)), accepted, strict=True):
            text = tokenizer.decode(list(row[: list(row).index(1)] if 1 in row else row))
            right += text in answers
        result[name] = right / per_kind
    return result


def train(
    config: T5Config, tokenizer: Tokenizer, steps: int, size: int = 128, rate: float = 2e-3, seed: int = 0
) -> dict:
    """Train a model on ``steps`` batches of ``size`` samples; returns its parameters as an nnx pure dict."""
    graph, state = nnx.split(T5(config, dtype=jnp.float32, rngs=nnx.Rngs(seed)))
    params = nnx.to_pure_dict(state)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps, rate / 100), weight_decay=0.01),
    )
    opt = tx.init(params)

    @jax.jit
    def step(params, opt, data, key):
        def loss(params):
            model = nnx.merge(graph, params)
            x, mask = inputs(model, data, key)
            labels = data["labels"]
            start = jnp.zeros((labels.shape[0], 1), jnp.int32)
            previous = jnp.where(labels[:, :-1] == -100, 0, labels[:, :-1])
            logits = model.logits(model.run_decoder(jnp.concatenate([start, previous], 1), model.encode(x, mask), mask))
            total, count = map(jnp.sum, token_cross_entropy(logits, labels))
            return total / count

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    rng = np.random.default_rng(seed)
    begun = time.time()
    for n in (bar := tqdm(range(steps), mininterval=10)):
        kinds = list(GROUPS)[int(rng.choice(len(GROUPS), p=list(GROUPS.values())))]
        names = [kinds[i] for i in rng.integers(len(kinds), size=size)]
        # Bags first: finding a cell by one of its words is learned sooner if its other words are in the same vector.
        data = batch(tokenizer, names, rng, spelling=float(n > steps // 3))
        del data["accepted"]
        params, opt, value = step(params, opt, data, jax.random.fold_in(jax.random.key(seed), n))
        if n % 100 == 0:
            bar.write(f"step {n} {kinds[0]}: loss {float(value):.4f}, {time.time() - begun:.0f} s")
        if n % 1000 == 999:
            bar.write(str(accuracy(graph, params, tokenizer)))
    print("language model, exact match on fresh text-only scenes:", accuracy(graph, params, tokenizer))
    return params
