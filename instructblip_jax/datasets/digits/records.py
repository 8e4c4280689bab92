"""Records of the digits tasks, each a function of set, split and number alone."""

import zlib
from collections.abc import Iterator

import numpy as np

from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.datasets.digits import scene as scenes
from instructblip_jax.datasets.digits.tasks import EVALUATED, HELD_IN, TASKS, Question


def question(name: str, rng: np.random.Generator) -> tuple[scenes.Scene, Question]:
    """A random scene and a question of the task ``name`` about it."""
    while True:
        scene = scenes.draw(rng)
        found = TASKS[name][1](scene, rng)
        if found is not None:
            return scene, found


def split_size(name: str, split: str) -> int:
    """Records of a set's split. Held-out kinds have nothing to train on."""
    return HELD_IN.get(name, 0) if split == "train" else EVALUATED


def make(name: str, split: str, start: int, stop: int) -> Iterator[Record]:
    """The records ``start`` to ``stop`` of a set's split ("train", "validation" or "test")."""
    for number in range(start, stop):
        uid = f"{name}/{split}/{number}"
        rng = np.random.default_rng(zlib.crc32(uid.encode()))
        scene, (slots, answers) = question(name, rng)
        image = scenes.encode(scenes.render(scene, split, rng))
        yield Record(
            uid, name, split, TASKS[name][0], (Medium(IMAGE, image),), slots, answers, meta={"scene": scene.text()}
        )
