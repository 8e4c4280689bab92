"""The digits world's vision towers: small ViTs, like EVA's and CLIP's, that learn to recognize training scans in
scenes.

Temporary heads predict, for each patch, the row, column, colour and digit of the cell that it belongs to.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from instructblip_jax.datasets.digits.scene import COLOURS, COLUMNS, ROWS, Scene, draw, render
from instructblip_jax.models.layers.primitives import layer_norm, linear
from instructblip_jax.models.towers.vit import Block, Vit, VitConfig

HEADS = {"digit": 11, "colour": 7, "row": 3, "column": 3}
"""Prediction for each patch -> number of classes; empty cells have the last digit and the last colour."""


def targets(scene: Scene, grid: int) -> np.ndarray:
    """The targets for each patch, int32 [grid * grid, 4], in the order of `HEADS`."""
    rows, columns = ROWS[scene.rows], COLUMNS[scene.columns]
    cells = {(cell.row, cell.column): cell for cell in scene.cells}
    out = np.zeros((grid, grid, len(HEADS)), np.int32)
    for i in range(grid):
        for j in range(grid):
            row, column = rows[i * scene.rows // grid], columns[j * scene.columns // grid]
            cell = cells.get((row, column))
            digit, colour = (cell.digit, tuple(COLOURS).index(cell.colour)) if cell else (10, 6)
            out[i, j] = digit, colour, ROWS[3].index(row), COLUMNS[3].index(column)
    return out.reshape(grid * grid, -1)


class Seer(nnx.Module):
    """The tower and its temporary linear heads on its tokens."""

    OUTPUTS = 1

    def __init__(self, config: VitConfig, rngs: nnx.Rngs):
        self.vit = Vit(config, dtype=jnp.float32, rngs=rngs)
        self._add_heads(config.hidden_size, rngs)

    def _add_heads(self, width: int, rngs: nnx.Rngs) -> None:
        for name, answers in HEADS.items():
            setattr(self, name, linear(width, answers, (None, None), dtype=jnp.float32, rngs=rngs))

    def asked(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Tokens [B, 1 + patches, D] -> head -> logits [B, patches, answers]."""
        return {name: getattr(self, name)(tokens[:, 1:]) for name in HEADS}

    def readings(self, pixels: jax.Array) -> list[dict[str, jax.Array]]:
        """Pixels [B, H, W, 3] -> the heads' logits on each trained output."""
        return [self.asked(self.vit(pixels))]


class ClipSeer(Seer):
    """CLIP's tower, trained on two outputs: LLaVA reads the last layer's input, other systems its normalised output."""

    OUTPUTS = 2

    def __init__(self, config: VitConfig, rngs: nnx.Rngs):
        shorter = dataclasses.replace(config, num_hidden_layers=config.num_hidden_layers - 1, post_norm=False)
        self.vit = Vit(shorter, dtype=jnp.float32, rngs=rngs)
        self.last = Block(config, dtype=jnp.float32, rngs=rngs)
        self.post_norm = layer_norm(config.hidden_size, config.layer_norm_eps, dtype=jnp.float32, rngs=rngs)
        self._add_heads(config.hidden_size, rngs)

    def readings(self, pixels: jax.Array) -> list[dict[str, jax.Array]]:
        x = self.vit.features(pixels)
        return [self.asked(x), self.asked(self.post_norm(self.last(x)))]


def clip_config(eva: VitConfig) -> VitConfig:
    """The configuration of CLIP's tower from EVA's: one more layer, whose output LLaVA does not read."""
    return dataclasses.replace(
        eva,
        num_hidden_layers=eva.num_hidden_layers + 1,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        patch_bias=False,
        pre_norm=True,
    )


def as_clip(eva: dict, config: VitConfig, pixels: jax.Array) -> dict:
    """EVA's tower as the initialisation of CLIP's, without the last layer; both as nnx pure dicts.

    The bias of the patches moves into the positions, exactly. The norm of the embeddings, which EVA does not have, gets
    the scale and shift that change the embeddings of the images ``pixels`` [B, H, W, 3] least.
    """
    params = {name: value for name, value in eva.items() if name != "post_norm"}
    params["position"] = eva["position"].at[1:].add(eva["patch"]["bias"])
    params["patch"] = {"kernel": eva["patch"]["kernel"]}
    kernel, grid, size = eva["patch"]["kernel"], config.grid, config.patch_size
    patches = pixels.reshape(-1, grid, size, grid, size, 3).swapaxes(2, 3).reshape(-1, grid * grid, size * size * 3)
    first = jnp.broadcast_to(params["class_token"], (len(pixels), 1, kernel.shape[1]))
    x = jnp.concatenate([first, patches @ kernel], axis=1) + params["position"]
    z = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    scale = ((z - z.mean((0, 1))) * (x - x.mean((0, 1)))).mean((0, 1)) / z.var((0, 1))
    return params | {"pre_norm": {"scale": scale, "bias": x.mean((0, 1)) - scale * z.mean((0, 1))}}


def whole_clip(params: dict) -> dict:
    """The parameters of a `ClipSeer`'s tower: the last layer added to the stack of the others."""
    layers = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), params["vit"]["layers"], params["last"])
    return params["vit"] | {"layers": layers, "post_norm": params["post_norm"]}


def pictures(split: str, count: int, seed: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Random scenes, uint8 [count, 48, 48, 3], and their targets, int32 [count, patches, 4]."""
    rng = np.random.default_rng(seed)
    scenes = [draw(rng) for _ in range(count)]
    return np.stack([render(s, split, rng) for s in scenes]), np.stack([targets(s, grid) for s in scenes])


def accuracy(graph, params, normalize, split: str, grid: int, count: int = 2000, reading: int = 0) -> dict[str, float]:
    """Share of correct patches per head, and of non-empty cells whose patches together name digit and colour."""
    images, wanted = pictures(split, count, 10**6, grid)
    run = jax.jit(lambda params, x: nnx.merge(graph, params).readings(x)[reading])
    right, cells = {name: [] for name in HEADS}, []
    for start in range(0, count, 200):
        logits = run(params, normalize(images[start : start + 200]))
        answers = {name: np.asarray(jax.nn.log_softmax(value)) for name, value in logits.items()}
        part = wanted[start : start + 200]
        for n, name in enumerate(HEADS):
            right[name].append(answers[name].argmax(-1) == part[..., n])
        for b in range(part.shape[0]):
            for key in {tuple(t) for t in part[b] if t[0] != 10}:
                own = (part[b] == key).all(-1)
                predicted = [answers[name][b, own].sum(0).argmax() for name in ("digit", "colour")]
                cells.append(tuple(predicted) == key[:2])
    return {name: float(np.mean(value)) for name, value in right.items()} | {"cell": float(np.mean(cells))}


def train(
    config: VitConfig,
    normalize,
    steps: int,
    size: int = 64,
    pool: int = 40_000,
    rate: float = 1.5e-3,
    seed: int = 0,
    seer: type[Seer] = Seer,
    start: dict | None = None,
) -> dict:
    """Train a ``seer`` and return its parameters as an nnx pure dict.

    ``normalize``: uint8 images -> the tower's pixels. ``start``: the initial parameters of its "vit".
    """
    graph, state = nnx.split(seer(config, nnx.Rngs(seed)))
    params = nnx.to_pure_dict(state)
    if start is not None:
        params["vit"] = start
    images, wanted = pictures("train", pool, seed, config.grid)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps, rate / 100), weight_decay=0.05),
    )
    opt = tx.init(params)

    @jax.jit
    def step(params, opt, pixels, wanted):
        def loss(params):
            return sum(
                optax.softmax_cross_entropy_with_integer_labels(logits[name], wanted[..., n]).mean()
                for logits in nnx.merge(graph, params).readings(pixels)
                for n, name in enumerate(HEADS)
            )

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    rng = np.random.default_rng(seed)
    for n in (bar := tqdm(range(steps), mininterval=10)):
        rows = rng.integers(pool, size=size)
        pixels = images[rows].astype(np.float32) * rng.uniform(0.9, 1.1, (size, 1, 1, 1)).astype(np.float32)
        params, opt, value = step(params, opt, normalize(pixels), wanted[rows])
        if n % 250 == 0:
            bar.write(f"step {n}: loss {float(value):.4f}")
    for split in ("train", "validation", "test"):
        for reading in range(seer.OUTPUTS):
            found = accuracy(graph, params, normalize, split, config.grid, reading=reading)
            print(f"vision tower on {split} scans, output {reading}:", found)
    return params


def train_clip(eva: dict, config: VitConfig, normalize, steps: int) -> dict:
    """Train CLIP's tower from EVA's parameters and configuration; returns the nnx pure dict of the whole tower."""
    images, _ = pictures("train", 256, 1, config.grid)
    start = as_clip(eva, config, jnp.asarray(normalize(images)))
    clip = clip_config(config)
    return whole_clip(train(clip, normalize, steps, pool=20_000, rate=5e-4, seer=ClipSeer, start=start))
