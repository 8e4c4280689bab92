"""A language model that trains: in pieces on every device, one layer gathered at a time, the same on any mesh."""

import math
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "systems"))
import minis

import instructblip_jax as ib
from instructblip_jax.mesh import make_mesh, put_batch, replicate
from instructblip_jax.run.checkpoint import Checkpoints
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.build import merge
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

OPTIM = OptimConfig(learning_rate=1e-2, warmup_steps=0, weight_decay=0.0, clip_norm=1.0)
LAYOUT = Layout(trained="zero", vit="replicated", llm="fsdp")
STEPS = 4


class Run:
    """A model on the first devices of this machine, its step and its state; ``sizes``: data and fsdp of the mesh."""

    def __init__(self, directory: Path, *sizes: int, accumulation: int = 1):
        mesh = make_mesh(*sizes, 1, devices=jax.devices()[: math.prod(sizes)])
        self.model = ib.from_pretrained(
            directory, mesh, "float32", trainable="projector_and_llm", layout=LAYOUT, remat="layer"
        )
        tx = optimizer(OPTIM, STEPS)
        self.step = make_step(partial(merge, self.model.graph), tx, seed=1, accumulation=accumulation)
        self.state = replicate(mesh, init_state(self.model.train, tx, memory=self.model.memory))

    def go(self, batch: dict[str, np.ndarray], count: int) -> list[float]:
        losses = []
        with jax.set_mesh(self.model.mesh):
            for _ in range(count):
                self.state, metrics = self.step(self.state, self.model.frozen, put_batch(self.model.mesh, batch))
                losses.append(float(metrics["loss"]))
        return losses


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return minis.write(tmp_path_factory.mktemp("trained") / "llava", "llava")


@pytest.fixture(scope="module")
def batch(directory):
    processor, rng = ib.Processor.from_pretrained(directory), np.random.default_rng(0)
    texts = ["which digit is red ?", "how many digits are there ?", "what is above the 3 ?", "is there a 7 ?"] * 2
    rows = [
        processor.encode(text, answer, training=True)
        for text, answer in zip(texts, ["3", "two", "a blue 5", "no"] * 2, strict=True)
    ]
    pictures = [Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)) for _ in texts]
    media = processor.stack([processor.media([("image", picture)]) for picture in pictures])
    return {**media, **processor.batch(rows, 56, 16)}


@pytest.fixture(scope="module")
def alone(directory, batch):
    """Losses of one device."""
    return Run(directory, 1, 1).go(batch, STEPS)


def test_eight_devices_that_go_on_as_four_do_what_one_does(directory, batch, alone, tmp_path):
    """With micro-batches too, whose gradients are added up in pieces."""
    eight = Run(directory, 2, 4)
    losses = eight.go(batch, 2)
    kept = Checkpoints(epath.Path(tmp_path / "checkpoints"))
    kept.save(2, eight.state, {"iterator": {}}, "source")
    kept.close()
    again, four = Checkpoints(epath.Path(tmp_path / "checkpoints")), Run(directory, 1, 4, accumulation=2)
    four.state = again.restore(2, four.state, "source")
    again.close()
    losses += four.go(batch, 2)
    np.testing.assert_allclose(losses, alone, rtol=2e-5)
    assert alone[-1] < alone[0] - 0.1


def test_masters_and_moments_are_in_pieces(directory):
    state = Run(directory, 2, 4).state
    moments = [tree for tree in jax.tree.leaves(state["opt"], is_leaf=is_arrays) if is_arrays(tree)]
    assert len(moments) == 2
    for tree in (state["train"], *moments):
        assert {x.dtype for x in tree.values()} == {np.dtype(np.float32)}
        held = {path: math.prod(x.addressable_shards[0].data.shape) for path, x in tree.items()}
        parts = {path: x.size // held[path] for path, x in tree.items()}
        assert {parts[path] for path in tree if path.startswith("llm/")} == {4}
        assert {parts[path] for path in tree if path.endswith("/kernel") and path.startswith("projector/")} <= {2, 4, 8}


def is_arrays(tree) -> bool:
    return isinstance(tree, dict)
