"""Records of the digits tasks; each depends only on its set, split and number."""

import zlib
from collections.abc import Iterator

import numpy as np

from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.datasets.digits import scene as scenes
from instructblip_jax.datasets.digits.naming import SIZES
from instructblip_jax.datasets.digits.senses import SINGLE
from instructblip_jax.datasets.digits.tasks import EVALUATED, HELD_IN, TASKS, Question


def question(name: str, rng: np.random.Generator) -> tuple[scenes.Scene, Question]:
    """A random scene and a question of the task ``name`` about it."""
    while True:
        scene = scenes.draw(rng)
        found = TASKS[name][1](scene, rng)
        if found is not None:
            return scene, found


def split_size(name: str, split: str) -> int:
    """Number of records in a split of a set; 0 for the training split of a held-out set."""
    return {**HELD_IN, **SIZES, **SINGLE}.get(name, 0) if split == "train" else EVALUATED


def make(name: str, split: str, start: int, stop: int) -> Iterator[Record]:
    """The records ``start`` up to but not including ``stop`` of a split ("train", "validation" or "test")."""
    for number in range(start, stop):
        uid = f"{name}/{split}/{number}"
        rng = np.random.default_rng(zlib.crc32(uid.encode()))
        scene, (slots, answers) = question(name, rng)
        image = scenes.encode(scenes.render(scene, split, rng))
        yield Record(
            uid, name, split, TASKS[name][0], (Medium(IMAGE, image),), slots, answers, meta={"scene": scene.text()}
        )
