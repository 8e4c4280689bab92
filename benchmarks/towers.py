"""The audio and point towers of X-InstructBLIP at full size: milliseconds of a forward pass, float32 and bfloat16.

    python benchmarks/towers.py [--rounds 5] [--json FILE]

Random weights. An audio clip is two blocks of 512 frames, 10.25 s; a cloud has 8192 points, and its time includes the
choice of centres and neighbours, which is also timed alone. Compilation is not timed; the least and the median of the
rounds are given, in which the cases take turns. "apart" is the distance of the bfloat16 output from the float32 one,
as a share of the latter's standard deviation.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from workers import timed  # noqa: E402

from instructblip_jax.models.towers.beats import Beats, BeatsConfig  # noqa: E402
from instructblip_jax.models.towers.point_bert import PointBert, PointBertConfig, farthest, nearest  # noqa: E402

DTYPES = ("float32", "bfloat16")


def forward(made: Callable[..., nnx.Module], dtype: str, x: jax.Array) -> Callable[[], jax.Array]:
    """A function that runs a tower, with weights stored in the compute type."""
    graph, state = nnx.split(made(dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
    state = jax.tree.map(lambda p: p.astype(dtype), state)
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, x).compile()
    return lambda: compiled(state, x).block_until_ready()


def cases() -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    clip = jnp.asarray(rng.standard_normal((2, 512, 128), np.float32))
    cloud = rng.standard_normal((1, 8192, 3)).astype(np.float32)
    cloud = jnp.asarray(cloud / np.sqrt((cloud**2).sum(-1)).max())
    audio, points = BeatsConfig(), PointBertConfig()

    def group(x: jax.Array) -> jax.Array:
        centres = jnp.take_along_axis(x, farthest(x, points.num_group)[..., None], axis=1)
        return nearest(x, centres, points.group_size)

    groups = jax.jit(group).lower(cloud).compile()
    found = {f"clip, {dtype}": forward(lambda **kind: Beats(audio, **kind), dtype, clip) for dtype in DTYPES}
    found |= {f"cloud, {dtype}": forward(lambda **kind: PointBert(points, **kind), dtype, cloud) for dtype in DTYPES}
    return found | {"centres and neighbours": lambda: groups(cloud).block_until_ready()}


def apart(wide: np.ndarray, half: np.ndarray) -> float:
    return float(np.sqrt(np.mean((half.astype(np.float32) - wide) ** 2)) / wide.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = cases()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run, 1)["seconds"])
    report: dict[str, Any] = {
        name: [round(1e3 * of(each), 1) for of in (min, statistics.median)] for name, each in seconds.items()
    }
    for name in ("clip", "cloud"):
        wide, half = (np.asarray(runs[f"{name}, {dtype}"]()) for dtype in DTYPES)
        report[f"{name}, apart"] = round(apart(wide, half), 4)
    for name, value in report.items():
        print(f"{name:26} {value if isinstance(value, float) else '{} ms, median {} ms'.format(*value)}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
