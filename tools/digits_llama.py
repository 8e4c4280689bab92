"""The digits world's second language model: a small decoder-only LLaMA that learns every task from text only.

A scene is at either of the places where systems put images: before the text, which then begins with ``<s>`` or, as for
InstructBLIP's Vicuna, with ``</s>``; or within the first turn of a conversation (LLaVA's template v1), with one vector
for each patch of the digits' towers. Several questions, which do not attend to one another, follow each scene.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from digits_text import GROUPS, SLOTS, embedded, greedy, right_share, slots
from digits_text import train as train_model
from flax import nnx
from tokenizers import Tokenizer

from instructblip_jax.datasets.digits import scene as scenes
from instructblip_jax.datasets.digits.records import question
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.digits.templates import TEMPLATES
from instructblip_jax.models.language.llama import Llama, LlamaConfig
from instructblip_jax.objectives.lm import token_cross_entropy

PATCHES = 36
BEGIN, END = 1, 2
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
FORMS = {  # name -> its share, text before the scene, vectors of the scene, text around the question
    "prefix": (0.5, None, SLOTS, "{}"),
    "conversation": (0.5, SYSTEM + "USER: ", PATCHES, "\n{} ASSISTANT:"),
}
SCENES, QUESTIONS = 8, 8  # per batch; per scene
POOL = 4  # batches of the same scenes, over which their questions are sorted by length
STEP = 20  # rows are padded to a multiple of this: few shapes to compile, few pads
FIRST = {("caption",): 0.6, **{kinds: 0.4 * share for kinds, share in GROUPS.items()}}
"""Kinds -> their share in the first third of the steps: a caption needs every cell, which teaches most about
finding a cell by its words."""
Asked = tuple[str, str, tuple[str, ...]]
"""A question about a scene: its text, an answer, all right answers."""


def asked(name: str, found: tuple, rng: np.random.Generator, *, first: bool = False) -> Asked:
    """A question in one of its wordings, or in the ``first`` one; ``found``: a `tasks.Question`."""
    values, right = found
    templates = TEMPLATES[name]
    text = templates[0 if first else int(rng.integers(len(templates)))].format(**values)
    return text, right[int(rng.integers(len(right)))], right


def questions(scene: scenes.Scene, count: int, groups: dict, rng: np.random.Generator) -> list[Asked]:
    """Questions about a scene, of random kinds, the shortest first. ``groups``: kinds -> their share."""
    out: list[Asked] = []
    while len(out) < count:
        kinds = list(groups)[int(rng.choice(len(groups), p=list(groups.values())))]
        name = kinds[int(rng.integers(len(kinds)))]
        if (found := TASKS[name][1](scene, rng)) is not None:
            out.append(asked(name, found, rng))
    return sorted(out, key=lambda one: len(f"{one[0]} {one[1]}".split()))


def arrays(
    tokenizer: Tokenizer, form: str, bags: list[np.ndarray], turns: list[list[Asked]], begin: int, *, answers: bool
) -> dict:
    """Token arrays of B scenes with N questions each: before [B, P], scene [B, S, 3], turns and labels [B, N, T].

    Turns begin with the token after the scene and are padded on the right. ``begin``: the token before all text.
    """
    _, head, _, frame = FORMS[form]
    first = [] if head is None else [begin, *tokenizer.encode(head, add_special_tokens=False).ids]
    flat = [one for row in turns for one in row]
    texts = tokenizer.encode_batch([frame.format(text) for text, _, _ in flat], add_special_tokens=False)
    responses = tokenizer.encode_batch([answer for _, answer, _ in flat], add_special_tokens=False)
    rows, labels = [], []
    for text, response in zip(texts, responses, strict=True):
        prompt = [begin, *text.ids] if head is None else text.ids
        answer = [*response.ids, END] if answers else []
        rows.append([*prompt, *answer])
        labels.append([*([-100] * len(prompt)), *answer])
    length = -(-max(map(len, rows)) // STEP) * STEP
    shape = (len(bags), -1, length)
    return {
        "before": np.array([first] * len(bags), np.int32).reshape(len(bags), -1),
        "scene": np.array(bags, np.int32),
        "turns": np.array([row + [0] * (length - len(row)) for row in rows], np.int32).reshape(shape),
        "labels": np.array([row + [-100] * (length - len(row)) for row in labels], np.int32).reshape(shape),
    }


def prefill(model: Llama, data: dict, turns: jax.Array, key: jax.Array | None) -> dict:
    """The context of what follows [before ; scene ; turns], ``turns`` int [B, T] without padding.

    With a ``key`` (training), the scene's embeddings get noise.
    """
    scene = embedded(model, data["scene"], key)
    x = jnp.concatenate([model.embed(data["before"]), scene, model.embed(turns)], axis=1)
    return model.prefill(x, jnp.ones(x.shape[:2], jnp.int32))


def loss(model: Llama, data: dict, key: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the answers' tokens."""
    context = prefill(model, data, data["turns"][:, 0, :1], key)  # `decode` takes the prompt's last token first
    logits, _ = model.decode(data["turns"][..., :-1], context)
    total, count = map(jnp.sum, token_cross_entropy(logits, data["labels"][..., 1:]))
    return total / count


def begun(config: LlamaConfig, rngs: nnx.Rngs) -> Llama:
    """A model that keeps words apart from the start: large embeddings, which the head shares, and small additions."""
    model = Llama(config, dtype=jnp.float32, rngs=rngs)
    words, head = model.tokens.embedding, model.to_vocab.kernel
    words.set_value(words[...] / words[...].std())
    head.set_value(words[...].T * head[...].std())
    for kernel in (model.layers.attn.o.kernel, model.layers.down.kernel):
        kernel.set_value(kernel[...] / (2 * config.num_hidden_layers) ** 0.5)
    return model


def accuracy(
    graph, params, tokenizer: Tokenizer, forms: tuple[str, ...], per_kind: int = 200, seed: int = 10**6
) -> dict[str, float]:
    """Exact match of greedy answers, "form/kind", over new scenes."""

    @jax.jit
    def answer(params, data):
        model = nnx.merge(graph, params)
        last = jnp.sum(data["turns"][:, 0] != 0, 1)[:, None] - 1
        scene = embedded(model, data["scene"], None)
        x = jnp.concatenate([model.embed(data["before"]), scene, model.embed(data["turns"][:, 0])], axis=1)
        mask = jnp.concatenate(
            [jnp.ones((x.shape[0], x.shape[1] - data["turns"].shape[2]), bool), data["turns"][:, 0] != 0], 1
        )
        first = jnp.take_along_axis(data["turns"][:, 0], last, axis=1)[:, 0]
        return greedy(model, model.prefill(x, mask), first, 24)

    result = {}
    for form in forms:
        for name in TASKS:
            rng = np.random.default_rng(seed)
            drawn = [question(name, rng) for _ in range(per_kind)]
            bags = [slots(tokenizer, scene, rng, 0.0, FORMS[form][2]) for scene, _ in drawn]
            turns = [[asked(name, found, rng, first=True)] for _, found in drawn]
            data = arrays(tokenizer, form, bags, turns, BEGIN, answers=False)
            accepted = [turn[2] for (turn,) in turns]
            result[f"{form}/{name}"] = right_share(tokenizer, np.asarray(answer(params, data)), accepted, END)
    return result


def train(config: LlamaConfig, tokenizer: Tokenizer, steps: int, seed: int = 0) -> dict:
    """Train a model for ``steps``; returns its parameters as an nnx pure dict."""

    def batches(rng: np.random.Generator) -> Iterator[tuple[str, dict]]:
        n = 0
        while True:
            drawn = []
            for form in rng.choice(list(FORMS), POOL, p=[share for share, *_ in FORMS.values()]):
                begin = (BEGIN, END)[int(rng.integers(2))] if form == "prefix" else BEGIN
                worlds = [scenes.draw(rng) for _ in range(SCENES)]
                bags = [slots(tokenizer, scene, rng, 0.0, FORMS[form][2]) for scene in worlds]
                groups = FIRST if n < steps // 3 else GROUPS
                turns = [questions(scene, POOL * QUESTIONS, groups, rng) for scene in worlds]
                for part in range(0, POOL * QUESTIONS, QUESTIONS):
                    own = [row[part : part + QUESTIONS] for row in turns]
                    drawn.append((form, arrays(tokenizer, form, bags, own, begin, answers=True)))
            for part in rng.permutation(len(drawn)):
                yield drawn[part]
                n += 1

    return train_model(
        lambda rngs: begun(config, rngs),
        batches,
        loss,
        lambda graph, params: accuracy(graph, params, tokenizer, ("prefix", "conversation")),
        steps,
        rate=3e-3,
        seed=seed,
    )
