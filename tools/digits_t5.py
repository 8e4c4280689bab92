"""The digits world's language model: a small T5 that learns every task from text alone, as FlanT5 knows its own.

A scene stands before the instruction as 16 word embeddings, where the visual prompt will stand: cells in any order,
some twice, fillers between them, a little noise. So the model relies on what is said, not on where, and forgives.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tokenizers import Tokenizer
from tqdm import tqdm

from instructblip_jax.data.digits.records import question
from instructblip_jax.data.digits.scene import draw
from instructblip_jax.data.digits.tasks import TASKS
from instructblip_jax.data.digits.templates import TEMPLATES
from instructblip_jax.models.t5 import T5, T5Config
from instructblip_jax.systems.loss import token_cross_entropy

SLOTS, INSTRUCTION = 16, 28
LONG = ("caption", "describe", "ask")  # answers of up to 24 tokens; the others have at most 8
NOISE = 0.1  # of the embeddings' own size
SHORT = tuple(kind for kind in TASKS if kind not in LONG)
FILL = ("fill",)
PHASES = (  # until which share of the steps -> groups of kinds and their shares
    # Every word of a caption and every blank teaches what belongs together; an answer teaches one word only.
    (0.15, {FILL: 0.6, ("caption",): 0.4}),
    (1.00, {FILL: 0.1, LONG: 0.25, SHORT: 0.65}),
)
BLANK, BLANK_SHARE = ".", 0.3


def slots(tokenizer: Tokenizer, scene, rng: np.random.Generator) -> list[int]:
    """A scene as 16 token ids: its cells in random order, repeated or with fillers between them."""
    cells = [[tokenizer.token_to_id(f"\u2581{w}") for w in (c.place, c.colour, str(c.digit))] for c in scene.cells]
    filler = [tokenizer.token_to_id("\u2581,")]
    parts = list(cells)
    free = SLOTS - 3 * len(cells)
    while free >= 3 and rng.random() < 0.5:
        parts.append(cells[int(rng.integers(len(cells)))])
        free -= 3
    parts += [filler] * free
    return [token for i in rng.permutation(len(parts)) for token in parts[i]]


def response_length(name: str) -> int:
    """Static number of answer tokens of a kind, its end token included."""
    return 24 if name in LONG else 8


def batch(tokenizer: Tokenizer, names: list[str], rng: np.random.Generator, first_template: bool = False) -> dict:
    """Token arrays of one sample a name: scene [B, 16], instruction [B, 28] with its mask, labels [B, 8 or 24]."""
    scenes, texts, answers, accepted = [], [], [], []
    for name in names:
        scene, (values, right) = question(name, rng)
        templates = TEMPLATES[name]
        text = templates[0 if first_template else int(rng.integers(len(templates)))].format(**values)
        scenes.append(slots(tokenizer, scene, rng))
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


def blanks(tokenizer: Tokenizer, size: int, rng: np.random.Generator) -> dict:
    """As `batch`, but the instruction describes the scene with words left blank, and ``labels`` [B, 28] name them."""
    data = {name: np.zeros((size, n), np.int32) for name, n in (("scene", SLOTS), ("ids", INSTRUCTION))}
    data["labels"] = np.full((size, INSTRUCTION), -100, np.int32)
    blank = tokenizer.token_to_id(f"\u2581{BLANK}")
    for n in range(size):
        scene = draw(rng)
        data["scene"][n] = slots(tokenizer, scene, rng)
        words = np.array(tokenizer.encode(scene.text(rng.permutation(len(scene.cells)))).ids)
        hidden = np.flatnonzero(rng.random(len(words) - 1) < BLANK_SHARE)
        data["labels"][n, hidden] = words[hidden]
        words[hidden] = blank
        data["ids"][n, : len(words)] = words
    return data | {"mask": (data["ids"] != 0).astype(np.int32)}


def encode(model: T5, data: dict, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Encoder output over [scene ; instruction], with noise on the scene's embeddings when training."""
    scene, text = model.embed(data["scene"]), model.embed(data["ids"])
    x = jnp.concatenate([scene, text], axis=1)
    if key is not None:
        size = jnp.sqrt(jnp.mean(jnp.square(scene)))
        x = x.at[:, :SLOTS].add(NOISE * size * jax.random.normal(key, scene.shape))
    mask = jnp.concatenate([jnp.ones(data["scene"].shape, jnp.int32), data["mask"]], axis=1)
    return model.encode(x, mask), mask


def accuracy(graph, params, tokenizer: Tokenizer, per_kind: int = 200, seed: int = 10**6) -> dict[str, float]:
    """Greedy exact match of each kind over fresh scenes."""

    @jax.jit
    def answer(params, data):
        model = nnx.merge(graph, params)
        encoded, mask = encode(model, data, None)
        length = data["labels"].shape[1]
        cache = model.start(encoded, mask, length)

        def step(carry, index):
            ids, cache = carry
            logits, cache = model.step(ids, cache, index)
            ids = jnp.argmax(logits, -1).astype(jnp.int32)
            return (ids, cache), ids

        start = jnp.zeros(encoded.shape[0], jnp.int32)
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
    """Trained parameters, as an nnx pure dict."""
    graph, state = nnx.split(T5(config, dtype=jnp.float32, rngs=nnx.Rngs(seed)))
    params = nnx.to_pure_dict(state)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps, rate / 100), weight_decay=0.01),
    )
    opt = tx.init(params)

    @partial(jax.jit, static_argnames="fill")
    def step(params, opt, data, key, fill):
        def loss(params):
            model = nnx.merge(graph, params)
            encoded, mask = encode(model, data, key)
            labels = data["labels"]
            if fill:
                total, count = token_cross_entropy(model.head(encoded[:, SLOTS:]), labels)
                return total / count
            start = jnp.zeros((labels.shape[0], 1), jnp.int32)
            previous = jnp.where(labels[:, :-1] == -100, 0, labels[:, :-1])
            logits = model.decode(jnp.concatenate([start, previous], 1), encoded, mask)
            total, count = token_cross_entropy(logits, labels)
            return total / count

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    rng = np.random.default_rng(seed)
    begun = time.time()
    for n in (bar := tqdm(range(steps), mininterval=10)):
        groups = next(groups for until, groups in PHASES if n < until * steps)
        kinds = list(groups)[int(rng.choice(len(groups), p=list(groups.values())))]
        if kinds == FILL:
            data = blanks(tokenizer, size, rng)
        else:
            data = batch(tokenizer, [kinds[i] for i in rng.integers(len(kinds), size=size)], rng)
            del data["accepted"]
        params, opt, value = step(params, opt, data, jax.random.fold_in(jax.random.key(seed), n), fill=kinds == FILL)
        if n % 100 == 0:
            bar.write(f"step {n} {kinds[0]}: loss {float(value):.4f}, {time.time() - begun:.0f} s")
        if n % 1000 == 999:
            bar.write(str(accuracy(graph, params, tokenizer)))
    print("language model, exact match on fresh text-only scenes:", accuracy(graph, params, tokenizer))
    return params
