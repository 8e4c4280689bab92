"""A system of another kind is planned by its configuration alone: contrastive, with a momentum copy and a queue, no
language model, and a convolution."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from instructblip_jax.mesh import make_mesh, replicate
from instructblip_jax.models.layers.primitives import linear, parameter
from instructblip_jax.objectives.term import Term
from instructblip_jax.plan import compiled, flops, report, sweep, table, tracing
from instructblip_jax.plan.chips import GIB, parse
from instructblip_jax.plan.compiled import Lengths, Setting
from instructblip_jax.sharding import Layout
from instructblip_jax.systems import momentum
from instructblip_jax.systems.build import abstract, begin_memory
from instructblip_jax.systems.protocol import TOWER
from instructblip_jax.train.optimizer import optimizer
from instructblip_jax.train.step import init_state

WIDTH, SHARED, QUEUE, WINDOW = 16, 8, 32, 4


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sounds of 32 samples and texts in one space; see `systems.protocol.SystemConfig`."""

    words: int = 40

    parts: ClassVar[Mapping[str, str]] = {"ear": TOWER}
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"heads": ("sound", "text"), "all": ("",)}
    in_batch: ClassVar[bool] = True
    media_keys: ClassVar[tuple[str, ...]] = ("sound",)
    label_keys: ClassVar[tuple[str, ...]] = ()
    feature_keys: ClassVar[Mapping[str, str]] = {}

    def build(self, *, dtype: Any, rngs: nnx.Rngs, **_: Any) -> "PairsSystem":
        return PairsSystem(self, dtype, rngs)

    def batch(self, rows, prompt, response=0, kinds=("sound",), *, training=True):
        return {
            "sound": jax.ShapeDtypeStruct((rows, 32, 1), jnp.float32),
            "ids": jax.ShapeDtypeStruct((rows, prompt), jnp.int32),
        }

    def begin_memory(self, train):
        copies = {f"momentum/{path}": jnp.copy(x) for path, x in train.items()}
        return copies | {"queue": jnp.zeros((QUEUE, SHARED))}

    def follow(self, memory, train):
        return momentum.follow(memory, train, 0.99)


class PairsSystem(nnx.Module):
    def __init__(self, config: Pairs, dtype: Any, rngs: nnx.Rngs):
        self.ear = nnx.Dict(kernel=parameter((WINDOW, 1, WIDTH), (None, None, "embed"), rngs=rngs))
        self.text = parameter((config.words, SHARED), ("vocab", "embed"), rngs=rngs)
        self.sound = linear(WIDTH, SHARED, ("embed", None), bias=False, dtype=dtype, rngs=rngs)

    def encode(self, batch):
        kernel = self.ear["kernel"][...].astype(jnp.float32)
        dimensions = ("NWC", "WIO", "NWC")
        return {
            "sound": jax.lax.conv_general_dilated(
                batch["sound"], kernel, (WINDOW,), "VALID", dimension_numbers=dimensions
            )
        }

    def loss(self, batch, *, memory, step, key=None):
        sounds = self.sound(self.encode(batch)["sound"].mean(1))
        texts = self.text[...][batch["ids"]].mean(1)
        others = jnp.concatenate([texts, memory["queue"]])
        right = jnp.arange(sounds.shape[0])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(sounds @ others.T), right[:, None], axis=1)[:, 0]
        queue = jnp.concatenate([memory["queue"], texts])[-QUEUE:]
        return {"pairs": Term(losses, jnp.ones_like(losses))}, memory | {"queue": queue}


def setting(**changes: Any) -> Setting:
    layout = Layout(ear="fsdp", trained="fsdp")
    return Setting(Pairs(), 16, Lengths(6, 0, ("sound",)), (1, 4, 2), layout, dtype="float32", **changes)


def test_memory_of_a_system_is_planned_where_it_lies():
    """Copies are sharded as their parameters are, and the queue is on every device."""
    chosen, mesh = setting(), make_mesh(1, 4, 2)
    described = compiled.describe(chosen, mesh)
    _, train, _ = abstract(chosen.model, mesh=mesh, dtype="float32", layout=chosen.layout)
    arrays = {path: jax.device_put(jnp.ones(x.shape), x.sharding) for path, x in train.items()}
    tx = optimizer(chosen.optim, 100)
    state = replicate(mesh, init_state(arrays, tx, memory=begin_memory(chosen.model, arrays)))
    assert all(
        jax.tree.leaves(
            jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), state, described.state)
        )
    )
    copies = (40 * SHARED + WIDTH * SHARED) / 8 * 4
    assert described.bytes()["trained"] == copies
    assert described.bytes()["memory"] == copies + QUEUE * SHARED * 4


@pytest.mark.parametrize(("trainable", "passes"), [("heads", 1), ("all", 2)])
def test_its_convolution_and_products_are_counted(trainable, passes):
    """Forward and, if the tower trains, the kernel's gradient; the sounds have none."""
    rows = 16
    shapes = {name: x.shape for name, x in Pairs().batch(rows, 6).items()}
    convolution = passes * 2 * (32 // WINDOW) * WINDOW * WIDTH
    head = (2 + (passes > 1)) * 2 * WIDTH * SHARED
    similarities = 3 * 2 * SHARED * (rows + QUEUE)
    counted = flops.of_batch(tracing.describe(Pairs(), trainable=trainable), shapes)
    assert counted == rows * (convolution + head + similarities)


def test_a_table_whose_rows_are_picked_is_not_read_whole():
    chosen, mesh = setting(), make_mesh(1, 4, 2)
    described = compiled.describe(chosen, mesh)

    def loss(train, frozen, batch, memory):
        terms, _ = described.merge(train, frozen).loss(batch, memory=memory, step=0)
        return terms["pairs"].sums

    with jax.set_mesh(mesh):
        traced = jax.jit(loss).trace(described.train, described.frozen, described.batch, described.state["memory"])
    assert compiled.read_whole(traced, described).keys() == {"ear/kernel", "sound/kernel"}


def test_its_step_is_planned_and_generation_is_not():
    topology = parse("h200:8")
    plan = report.plan(setting(), topology, jax.devices())
    assert plan.fits
    assert plan.bytes["memory"] > 0
    assert "| momentum copies and queues |" in table.memory(dataclasses.replace(plan, bytes={"memory": GIB}))
    assert "mesh data 1, fsdp 4, tensor 2; layout trained fsdp, ear fsdp" in table.title(plan, "pairs")
    assert not tracing.answers(tracing.describe(Pairs()))


def test_remedies_and_ways_are_those_of_its_parts():
    topology = parse("h200:8")
    ways = sweep.ways(setting(), topology)
    assert {way.layout.of("ear") for way in ways} == {"replicated", "fsdp", "tensor", "sequence", "sharded"}
    assert {way.layout.of("trained") for way in ways} == {"replicated"}
    assert not any(way.int8 for way in ways)
    full = {"frozen": 200 * GIB, "temporaries": 200 * GIB}
    too_large = report.Plan(setting(), topology, fits=False, peak=400 * GIB, bytes=full, flops=1.0)
    found = report.remedies(too_large)
    assert "--config.batch_size=8, leaves 1/2 of most of the temporaries" in found
    assert not [remedy for remedy in found if "language" in remedy or "accumulation" in remedy]
