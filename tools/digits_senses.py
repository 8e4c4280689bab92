"""Make the digits world's audio and point-cloud towers: python tools/digits_senses.py [digits_beats]
[digits_point_bert]

A small BEATs and a small PointBERT in the layout of their public files. They are trained as digit classifiers, on
training voices and training scans only: a temporary linear head predicts the digit from the mean of the tower's tokens.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits_towers import cached, main, write_json, write_weights
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from tqdm import tqdm

from instructblip_jax.convert.parts import beats, point_bert
from instructblip_jax.datasets.digits.senses import feel, hear
from instructblip_jax.datasets.digits.strokes import POINTS
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.models.towers.beats import Beats, BeatsConfig
from instructblip_jax.models.towers.point_bert import PointBert, PointBertConfig
from instructblip_jax.processors.audio import AudioProcessor
from instructblip_jax.processors.points import PointProcessor

SOUNDS = AudioProcessor(block=128, blocks=1)
"""A clip is one block: 1.3 seconds."""
CLOUDS = PointProcessor(count=POINTS)
HEARING = BeatsConfig(
    embed_dim=64,
    encoder_layers=3,
    encoder_embed_dim=64,
    encoder_ffn_embed_dim=256,
    encoder_attention_heads=4,
    conv_pos=16,
    conv_pos_groups=4,
    num_buckets=32,
    max_distance=64,
)
TOUCH = PointBertConfig(
    trans_dim=64,
    depth=3,
    num_heads=4,
    group_size=12,
    num_group=20,
    encoder_dims=64,
    channels=(24, 48, 64),
    position_hidden=64,
    embed_dim=64,
)
POOL, BATCH, RATE = 4000, 48, 2e-3  # examples that are drawn once, rows of a step, learning rate
HEARING_STEPS, TOUCH_STEPS = 700, 900
BANDS, FRAMES = 4, 8  # maximum shift of a clip in pitch and in time
STILL = ("mean", "variance")
"""Statistics of PointBERT's batch norms: computed once, over patches of training scans, and then fixed."""


class Namer(nnx.Module):
    """A tower and its temporary head."""

    def __init__(self, tower: Callable[[nnx.Rngs], nnx.Module], width: int, rngs: nnx.Rngs):
        self.tower = tower(rngs)
        self.head = linear(width, 10, (None, None), dtype=jnp.float32, rngs=rngs)

    def __call__(self, media: jax.Array) -> jax.Array:
        """Media [B, ...] -> logits [B, 10]."""
        return self.head(self.tower(media).mean(1))


def clips(split: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Filter banks float32 [count, T, M] of spoken digits, and the digits."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(10, size=count)
    return np.concatenate([SOUNDS.values(hear(int(d), split, rng)[0].data, "clip") for d in digits]), digits


def clouds(split: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points float32 [count, N, 3] of scans, and the digits."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(10, size=count)
    return np.stack([CLOUDS.values(feel(int(d), split, rng)[0].data, "cloud") for d in digits]), digits


def moved(banks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Filter banks [B, T, M] shifted in pitch and time, and scaled in loudness."""
    out = np.stack(
        [np.roll(one, (rng.integers(-FRAMES, FRAMES + 1), rng.integers(-BANDS, BANDS + 1)), (0, 1)) for one in banks]
    )
    return out + rng.normal(0, 0.05, (len(out), 1, 1)).astype(np.float32)


def train(
    tower: Callable[[nnx.Rngs], nnx.Module],
    width: int,
    drawn: Callable[[str, int, int], tuple[np.ndarray, np.ndarray]],
    steps: int,
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray] = lambda media, rng: media,
    begin: Callable[[dict, np.ndarray], dict] = lambda params, media: params,
    seed: int = 0,
) -> dict:
    """Train a tower for ``steps``; returns its parameters as an nnx pure dict.

    Args:
      tower: rngs -> the tower, whose tokens have the width ``wide``.
      drawn: (split, count, seed) -> media and their digits.
      change: augmentation of each step's media.
      begin: (parameters, media) -> the initial parameters.
    """
    graph, state = nnx.split(Namer(tower, width, nnx.Rngs(seed)))
    media, digits = drawn("train", POOL, seed)
    params = nnx.to_pure_dict(state)
    params["tower"] = begin(params["tower"], media[:256])
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, RATE, 100, steps, RATE / 100), weight_decay=0.05),
    )
    opt = tx.init(params)

    @jax.jit
    def step(params, opt, media, digits):
        def loss(params):
            logits = nnx.merge(graph, params)(media)
            wanted = optax.smooth_labels(jax.nn.one_hot(digits, 10), 0.05)
            return optax.softmax_cross_entropy(logits, wanted).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        updates = unflatten_dict(
            {path: jnp.zeros_like(x) if path[-1] in STILL else x for path, x in flatten_dict(updates).items()}
        )
        return optax.apply_updates(params, updates), opt, value

    rng = np.random.default_rng(seed)
    for n in (bar := tqdm(range(steps), mininterval=10)):
        rows = rng.integers(POOL, size=BATCH)
        params, opt, value = step(params, opt, change(media[rows], rng), digits[rows])
        if n % 100 == 0:
            bar.write(f"step {n}: loss {float(value):.4f}")
    named = jax.jit(lambda params, media: jnp.argmax(nnx.merge(graph, params)(media), -1))
    for split in ("train", "validation", "test"):
        media, digits = drawn(split, 1000, 10**6)
        right = [np.asarray(named(params, media[at : at + 200])) == digits[at : at + 200] for at in range(0, 1000, 200)]
        print(f"{type(nnx.merge(graph, params).tower).__name__} on {split}: {np.mean(right):.3f} of digits")
    return params["tower"]


def train_hearing(steps: int) -> dict:
    """BEATs."""
    return train(lambda rngs: Beats(HEARING, dtype=jnp.float32, rngs=rngs), HEARING.width, clips, steps, moved)


def train_touch(steps: int) -> dict:
    """PointBERT."""
    make = lambda rngs: PointBert(TOUCH, dtype=jnp.float32, rngs=rngs)

    def begin(params: dict, points: np.ndarray) -> dict:
        graph = nnx.graphdef(make(nnx.Rngs(0)))
        first = nnx.merge(graph, params)
        _, patches = first.group(jnp.asarray(points))
        for name, of in (("first_norm", lambda m, x: m.first(x)), ("third_norm", _before_third)):
            x = of(nnx.merge(graph, params).patches, patches)
            params["patches"][name] |= {"mean": x.mean((0, 1, 2)), "variance": x.var((0, 1, 2))}
        return params

    return train(make, TOUCH.width, clouds, steps, begin=begin)


def _before_third(encoder, patches: jax.Array) -> jax.Array:
    """The input of a `PatchEncoder`'s second norm."""
    x = encoder.second(jax.nn.relu(encoder.first_norm(encoder.first(patches))))
    whole = jnp.broadcast_to(jnp.max(x, axis=-2, keepdims=True), x.shape)
    return encoder.third(jnp.concatenate([whole, x], axis=-1))


def make_beats(out: Path, cache: Path) -> None:
    """BEATs, and the augmentation of its filter banks."""
    sound = {name: getattr(SOUNDS, name) for name in ("block", "blocks", "mels", "rate")}
    write_json(out / "config.json", dataclasses.asdict(HEARING) | sound)
    arrays = cached(cache / "beats.safetensors", lambda: train_hearing(HEARING_STEPS))
    write_weights(out, {rule.ours: rule for rule in beats.rules(HEARING, "", "")}, arrays)


def make_point_bert(out: Path, cache: Path) -> None:
    """PointBERT, and its number of points."""
    write_json(out / "config.json", dataclasses.asdict(TOUCH) | {"count": CLOUDS.count})
    arrays = cached(cache / "point_bert.safetensors", lambda: train_touch(TOUCH_STEPS))
    write_weights(out, {rule.ours: rule for rule in point_bert.rules(TOUCH, "", "")}, arrays)


MAKE = {"digits_beats": make_beats, "digits_point_bert": make_point_bert}


if __name__ == "__main__":
    main(MAKE, __doc__)
