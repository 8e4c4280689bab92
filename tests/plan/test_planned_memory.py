"""Planned memory against the memory of a run on this machine: the digits model, its step, its arrays."""

import gc
import os
from importlib.resources import files
from pathlib import Path

import jax
import numpy as np
import pytest

import instructblip_jax as ib
from instructblip_jax.mesh import make_mesh, put_batch, replicate
from instructblip_jax.plan import compiled
from instructblip_jax.plan.compiled import Lengths, Setting
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.train.optimizer import optimizer
from instructblip_jax.train.step import init_state

DIGITS = files("instructblip_jax") / "assets" / "digits"
WHOLE = Layout(trained="replicated", vit="replicated", llm="replicated")


def digits(mesh, layout: Layout, rows: int):
    """The model on a mesh, the same as shapes, its state and a batch."""
    model = ib.InstructBlip.from_pretrained(DIGITS, mesh, "float32", layout=layout)
    setting = Setting(model.config, rows, Lengths(24, 16), layout=layout, dtype="float32")
    described = compiled.describe(setting, mesh)
    state = replicate(mesh, init_state(model.train, optimizer(setting.optim, 100)))
    batch = {name: np.ones(x.shape, x.dtype) for name, x in described.batch.items()}
    return model, described, state, put_batch(mesh, batch)


def on_a_device(tree, device) -> int:
    """Bytes of live arrays that this device holds."""
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    return sum(s.data.nbytes for x in leaves for s in x.addressable_shards if s.device == device)


@pytest.mark.parametrize(
    ("layout", "sizes"), [(SHARDED, (2, 2, 2)), (Layout(trained="replicated", vit="fsdp", llm="tensor"), (1, 4, 2))]
)
def test_planned_bytes_are_those_that_a_device_holds(layout, sizes):
    mesh = make_mesh(*sizes)
    model, described, state, batch = digits(mesh, layout, 8)
    planned = described.bytes()
    held = {"frozen": model.frozen, "trained": state["train"], "optimizer": state["opt"], "batch": batch}
    for device in (mesh.devices.flat[0], mesh.devices.flat[-1]):
        assert {kind: on_a_device(tree, device) for kind, tree in held.items()} == planned
    # And where: what is planned is compiled for the very shardings that the run has.
    same = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), state, described.state)
    assert all(jax.tree.leaves(same))


def resident(field: str) -> int:
    """VmRSS or VmHWM (the highest so far) of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's record of peak memory")
def test_the_compilers_figures_are_the_plans_and_what_a_step_takes():
    rows = 64
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    model, described, state, batch = digits(mesh, WHOLE, rows)
    traced = compiled.train_step(described)
    with jax.set_mesh(mesh):
        step = traced.lower().compile()
    memory = step.memory_analysis()
    assert memory.argument_size_in_bytes == pytest.approx(sum(described.bytes().values()), rel=1e-3)
    state, _ = step(state, model.frozen, batch)  # what stays after a first call stays
    jax.block_until_ready(state)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    state, _ = step(state, model.frozen, batch)
    jax.block_until_ready(state)
    assert resident("VmHWM") - before == pytest.approx(memory.temp_size_in_bytes, rel=0.25)
