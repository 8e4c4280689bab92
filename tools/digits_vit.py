"""The digits world's vision tower: a small EVA-style ViT that learns to recognize training scans in scenes.

Temporary heads predict, for each patch, the row, column, colour and digit of the cell that it belongs to.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from instructblip_jax.datasets.digits.scene import COLOURS, COLUMNS, ROWS, Scene, draw, render
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.models.towers.vit import Vit, VitConfig

HEADS = {"digit": 11, "colour": 7, "row": 3, "column": 3}
"""Question about each patch -> number of answers; empty cells have the last digit and the last colour."""


def targets(scene: Scene, grid: int) -> np.ndarray:
    """The answers for each patch, int32 [grid * grid, 4], in the order of `HEADS`."""
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
    """The tower and its temporary heads: pixels [B, H, W, 3] -> head -> logits [B, patches, answers]."""

    def __init__(self, config: VitConfig, rngs: nnx.Rngs):
        self.vit = Vit(config, dtype=jnp.float32, rngs=rngs)
        for name, answers in HEADS.items():
            setattr(self, name, linear(config.hidden_size, answers, (None, None), dtype=jnp.float32, rngs=rngs))

    def __call__(self, pixels: jax.Array) -> dict[str, jax.Array]:
        tokens = self.vit(pixels)[:, 1:]
        return {name: getattr(self, name)(tokens) for name in HEADS}


def pictures(split: str, count: int, seed: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Random scenes, uint8 [count, 48, 48, 3], and their targets, int32 [count, patches, 4]."""
    rng = np.random.default_rng(seed)
    scenes = [draw(rng) for _ in range(count)]
    return np.stack([render(s, split, rng) for s in scenes]), np.stack([targets(s, grid) for s in scenes])


def accuracy(graph, params, normalize, split: str, grid: int, count: int = 2000) -> dict[str, float]:
    """Share of correct patches per head, and of non-empty cells whose patches together name digit and colour."""
    images, wanted = pictures(split, count, 10**6, grid)
    run = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
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
    config: VitConfig, normalize, steps: int, size: int = 64, pool: int = 40_000, rate: float = 1.5e-3, seed: int = 0
):
    """Train the tower and return its parameters, without the heads, as an nnx pure dict.

    ``normalize``: uint8 pictures -> the tower's pixels.
    """
    graph, state = nnx.split(Seer(config, nnx.Rngs(seed)))
    params = nnx.to_pure_dict(state)
    images, wanted = pictures("train", pool, seed, config.grid)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps, rate / 100), weight_decay=0.05),
    )
    opt = tx.init(params)

    @jax.jit
    def step(params, opt, pixels, wanted):
        def loss(params):
            logits = nnx.merge(graph, params)(pixels)
            return sum(
                optax.softmax_cross_entropy_with_integer_labels(logits[name], wanted[..., n]).mean()
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
        print(f"vision tower on {split} scans:", accuracy(graph, params, normalize, split, config.grid))
    return params["vit"]
