"""Programs of the GPU's own compiler: four small ones as it wrote them (gpu_programs/, for H100s), read with numbers
that are known beforehand; and the compiler itself, where it is installed."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from instructblip_jax.mesh import make_mesh
from instructblip_jax.plan import chips, collectives, compiled, estimate, gpus, hlo_cost, losses
from instructblip_jax.plan.hlo import Program

EIGHT = [(0, (0, 0, n)) for n in range(8)]
PARTS = ("vit", "llm")


def program(name: str) -> Program:
    return Program((Path(__file__).parent / "gpu_programs" / f"{name}.hlo").read_text(encoding="utf-8"))


def total(parsed: Program, field: str) -> float:
    return sum(op.times * getattr(op, field) for op in hlo_cost.ops(parsed))


def test_a_librarys_products_are_counted_as_often_as_they_run():
    """x [512, 256] over eight GPUs, w [256, 256], then three frozen layers in a scan; the gradient of w."""
    parsed = program("step")
    product = 2 * 64 * 256 * 256
    assert hlo_cost.executed_flops(parsed) == (1 + 3 + 3 + 1) * product
    calls = [op for op in hlo_cost.ops(parsed) if op.flops]
    assert {op.bytes for op in calls} == {2 * (64 * 256 + 256 * 256 + 64 * 256)}  # and no workspace
    assert sorted(op.times for op in calls) == [1, 1, 3, 3]


def test_its_all_reduce_is_found_and_nothing_hides_it():
    parsed, topology = program("step"), chips.parse("h100:8")
    (found,) = collectives.find(parsed, 8, {"llm/first/kernel": ((256, 256), True)}, PARTS)
    assert (found.kind, found.group, found.why) == ("all-reduce", tuple(range(8)), "gradients of what trains")
    assert found.payload == 256 * 256 * 2
    made = estimate.estimate(parsed, hlo_cost.ops(parsed), [found], topology, EIGHT)
    assert made.sending == pytest.approx(found.moved / 450e9)


def test_a_likely_step_is_its_parts_and_slices_of_the_stack_are_told():
    parsed, topology = program("step"), chips.parse("h100:8")
    found = collectives.find(parsed, 8, {}, PARTS)
    ops = hlo_cost.ops(parsed)
    made = estimate.estimate(parsed, ops, found, topology, EIGHT)
    alone = estimate.exposed(parsed, ops, found, topology, EIGHT, estimate.likely)
    rows = losses.losses(parsed, ops, alone, found, topology.chip, PARTS)
    assert sum(row.seconds for row in rows) == pytest.approx(made.likely)
    assert made.likely >= made.per_op >= made.bytes / topology.chip.bandwidth
    assert rows[0].what == losses.USEFUL
    assert rows[0].seconds == pytest.approx(hlo_cost.executed_flops(parsed) / 989e12)
    seconds = {(row.what, row.part): row.seconds for row in rows}
    # Each of three layers is read out of the stack and written beside it, forward and backward.
    assert seconds[losses.SLICED, "llm"] == pytest.approx(2 * 3 * (2 * 256 * 256 * 2 + 4) / 3350e9)
    assert seconds[losses.SOFTMAX, ""] > 0
    assert (losses.SENT, "llm") in seconds


def test_a_token_reads_a_stacks_int8_weights_once():
    """Four layers [512, 512] in int8, a token of one row: the slice is fused into the product, which is no call."""
    parsed = program("token")
    assert 4 * 512 * 512 < total(parsed, "bytes") < 1.03 * 4 * 512 * 512


def test_attention_by_cudnn_is_two_products_and_five():
    """q, k, v [2, 64, 4, 32]: scores [2, 4, 64, 64]; the backward pass makes them again."""
    parsed = program("attention")
    assert hlo_cost.executed_flops(parsed) == (2 + 5) * 2 * (2 * 4 * 64 * 64) * 32


def test_products_of_int8_matrices_count_at_their_own_peak():
    parsed, chip = program("int8"), chips.CHIPS["h100"]
    flops = 2 * 512 * 256 * 1024
    assert (total(parsed, "flops"), total(parsed, "narrow")) == (flops, flops)
    assert total(program("step"), "narrow") == 0
    seconds = sum(estimate.products(op, chip) for op in hlo_cost.ops(parsed))
    assert seconds == pytest.approx(flops / 1978e12)


OVERLAPPED = """HloModule m, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

ENTRY %main (p: f32[8388608], q: f32[33554432]) -> f32[8388608] {
  %p = f32[8388608]{0} parameter(0)
  %q = f32[33554432]{0} parameter(1)
  %first = f32[8388608]{0} all-reduce-start(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  %second = f32[8388608]{0} all-reduce-start(%p), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  %work = f32[33554432]{0} negate(%q)
  %first-done = f32[8388608]{0} all-reduce-done(%first)
  %second-done = f32[8388608]{0} all-reduce-done(%second)
  ROOT %out = f32[8388608]{0} add(%first-done, %second-done)
}
"""


@pytest.mark.parametrize(("text", "hidden"), [(OVERLAPPED, 1), (OVERLAPPED.replace("-start(", "("), 0)])
def test_what_is_sent_beside_work_is_hidden_by_it_once(text, hidden):
    """80 microseconds of work stand for those of one of the two, which take 130 each."""
    parsed, topology = Program(text), chips.parse("h100:8")
    ops, found = hlo_cost.ops(parsed), collectives.find(parsed, 8, {}, PARTS)
    work = hidden * 2 * 4 * 33554432 / 3350e9
    both = 2 * found[0].moved / 450e9
    assert work < both / 2
    made = estimate.estimate(parsed, ops, found, topology, EIGHT)
    assert made.sending == pytest.approx(both - work)


def test_without_the_gpus_compiler_it_says_how_to_get_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "jax_plugins" in name else find(name, *rest)
    )
    with pytest.raises(ValueError, match=r"pip install -e '\.\[plan-gpu\]'"):
        compiled.devices(chips.parse("h100:8"))


def test_every_gpu_of_the_table_has_a_description():
    assert gpus.DEVICES.keys() == {name for name, chip in chips.CHIPS.items() if not chip.tpu}
    for name, device in gpus.DEVICES.items():
        assert device.name in chips.CHIPS[name].kinds
        assert device.memory == pytest.approx(chips.CHIPS[name].memory, rel=0.08)
        assert device.bandwidth == pytest.approx(chips.CHIPS[name].bandwidth, rel=0.001)


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="pip install -e '.[plan-gpu]'",
)


@needs_compiler
@pytest.mark.parametrize(("name", "machines"), [("a100-40:1", 1), ("h200:8", 1), ("h100:16", 2)])
def test_a_machine_that_is_not_there_is_compiled_for(name, machines):
    topology = chips.parse(name)
    devices = compiled.devices(topology)
    assert len(devices) == topology.devices
    assert len({device.process_index for device in devices}) == machines
    mesh = make_mesh(-1, 1, 1, devices=devices)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    x = jax.ShapeDtypeStruct((64 * len(devices), 256), jnp.bfloat16, sharding=rows)
    w = jax.ShapeDtypeStruct((256, 512), jnp.bfloat16, sharding=whole)
    traced = jax.jit(lambda x, w: x @ w).trace(x, w)
    made = compiled.compiled(traced, mesh, gpus.TRAINING)
    assert hlo_cost.executed_flops(Program(made.text)) == 2 * 64 * 256 * 512


@needs_compiler
def test_machines_are_whole():
    with pytest.raises(ValueError, match="multiple"):
        compiled.devices(chips.parse("h100:12"))
