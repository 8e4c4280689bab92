"""LLaVA's second stage: masters and moments of a whole language model, split over the mesh, saved and resumed."""

from functools import partial

import checkpoints
import jax
import minis
import numpy as np
import pytest
from etils import epath

import instructblip_jax as ib
from instructblip_jax.mesh import make_mesh, put_batch, replicate
from instructblip_jax.run.checkpoint import Checkpoints
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.build import merge
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

STEPS, KILLED = 8, 4
OPTIM = OptimConfig(learning_rate=5e-3, warmup_steps=0, weight_decay=0.0, clip_norm=1.0)
LAYOUT = Layout(trained="zero", vit="replicated", llm="fsdp")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return minis.write(tmp_path_factory.mktemp("second_stage") / "llava", "llava")


@pytest.fixture(scope="module")
def batches(directory):
    processor, rng = ib.Processor.from_pretrained(directory), np.random.default_rng(3)
    made = []
    for _ in range(3):
        pictures = list(rng.integers(0, 256, (8, 30, 40, 3), np.uint8))
        turns = [("which digit is red ?", "a blue 5"), ("is there a 7 ?", str(rng.integers(10)))]
        rows = [processor.converse(turns[: 1 + n % 2], 1) for n in range(8)]
        media = processor.stack([processor.media([("image", picture)]) for picture in pictures])
        made.append(media | processor.batch(rows, 56, 32))
    return made


class Run:
    """Training on a mesh, in ``parts`` micro-batches, from the start or from a checkpoint."""

    def __init__(self, directory, mesh, parts=1):
        self.mesh = mesh
        self.model = ib.from_pretrained(
            directory, mesh, "float32", trainable="projector_and_llm", layout=LAYOUT, remat="layer"
        )
        tx = optimizer(OPTIM, STEPS)
        self.step = make_step(partial(merge, self.model.graph), tx, seed=1, accumulation=parts)
        self.state = replicate(mesh, init_state(self.model.train, tx, memory=self.model.memory))

    def losses(self, batches, first, last):
        found = []
        with jax.set_mesh(self.mesh):
            for n in range(first, last):
                batch = put_batch(self.mesh, batches[n % len(batches)])
                self.state, metrics = self.step(self.state, self.model.frozen, batch)
                found.append(float(metrics["loss"]))
        return found


@pytest.fixture(scope="module")
def alone(directory, batches):
    run = Run(directory, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    return run.losses(batches, 0, STEPS), checkpoints.host(run.state["train"])


@pytest.mark.long
def test_killed_on_eight_devices_and_resumed_on_four_it_ends_as_on_one(directory, batches, alone, tmp_path):
    want, weights = alone
    eight = Run(directory, make_mesh(data=2, fsdp=4))
    losses = eight.losses(batches, 0, KILLED)
    shares = {path: x.addressable_shards[0].data.size / x.size for path, x in eight.state["train"].items()}
    assert all(share == 1 / 4 for path, share in shares.items() if path.startswith("llm/") and "norm" not in path)
    moments = [x for x in jax.tree.leaves(eight.state["opt"]) if x.ndim]
    assert len(moments) == 2 * len(shares)
    assert sum(x.addressable_shards[0].data.nbytes for x in moments) == 2 * sum(
        4 * share * eight.state["train"][path].size for path, share in shares.items()
    )
    kept = Checkpoints(epath.Path(tmp_path / "checkpoints"))
    kept.save(KILLED, eight.state, {"iterator": {}}, "source")
    kept.close()
    four = Run(directory, make_mesh(data=2, fsdp=2, devices=jax.devices()[:4]), parts=2)
    again = Checkpoints(epath.Path(tmp_path / "checkpoints"))
    four.state = again.restore(KILLED, four.state, "source")
    again.close()
    losses += four.losses(batches, KILLED, STEPS)
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    for path, x in checkpoints.host(four.state["train"]).items():
        assert np.abs(x - weights[path]).max() < 2e-4, path
