"""What compiled programs send: bytes, groups and repetitions that are known beforehand, on eight fake devices."""

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.layers import stack
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.plan import collectives, compiled, roofline
from instructblip_jax.plan.chips import parse
from instructblip_jax.plan.collectives import Collective, first_group, part_of, when_of
from instructblip_jax.plan.hlo import Program, arrays
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.llava import LlavaConfig
from instructblip_jax.train.optimizer import OptimConfig

sys.path.append(str(Path(__file__).parents[1] / "train"))
import training

PARTS = ("vit", "llm")


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x", (0, 2)),
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['axis_0'=16] {'axis_0'}, x", tuple(range(16))),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4)),
        ("source_target_pairs={{3,0},{0,1}}, x", (0, 3)),
        ("nothing", tuple(range(8))),
    ],
)
def test_groups_are_read_in_every_notation(text, group):
    assert first_group(f", {text}", 8) == group


def test_types_are_read_with_their_bytes_and_their_memory():
    near, far, packed, flag = arrays("(bf16[8,16]{1,0:T(8,128)(2,1)S(1)}, f32[4]{0:T(128)}, s4[10], pred[])")
    assert (near.near, near.nbytes, far.near, far.nbytes) == (True, 256, False, 16)
    assert (packed.nbytes, flag.nbytes, flag.shape) == (5, 1, ())


def test_names_say_part_and_pass():
    name = "jit(step)/transpose(jvp(llm))/while/body/closed_call/checkpoint/rematted_computation/dot_general"
    assert (part_of(name, PARTS), when_of(name)) == ("llm", "rematerialised")
    inner = "jit(step)/jvp(llm)/vit/while/body/mul"
    assert (part_of(inner, PARTS), when_of("jit(step)/jvp(llm)/vit")) == ("vit", "forward")
    outer = "jit(step)/transpose(jvp(llm))/trained/add"
    assert (part_of(outer, PARTS), when_of("jit(step)/mul")) == ("trained", "update")
    assert part_of("jit(step)/mul", PARTS) == ""
    # Arguments of the step: parameters, and their moments.
    assert part_of("frozen['llm/head/kernel']", PARTS) == "llm"
    assert part_of("state['opt'][0].mu['query_tokens']", PARTS) == "trained"
    assert part_of("state['step']", PARTS) == ""


def program_of(function, mesh, *args) -> Program:
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec)) for shape, spec in args]
    return Program(jax.jit(function).lower(*shapes).compile().as_text())


def test_partial_sums_in_a_loop_are_counted_with_their_runs():
    """x [16, 32] over data, each of 5 matrices cut along what is summed over: a sum over the four of a tensor group."""
    mesh = make_mesh(2, 1, 4)

    def run(x, w, v):
        def body(x, layer):
            w, v = layer
            return jax.lax.with_sharding_constraint(
                jnp.tanh(x @ w) @ v, NamedSharding(mesh, PartitionSpec("data", None))
            ), None

        return jax.lax.scan(body, x, (w, v))[0]

    cut = (((5, 32, 64), PartitionSpec(None, None, "tensor")), ((5, 64, 32), PartitionSpec(None, "tensor", None)))
    program = program_of(run, mesh, ((16, 32), PartitionSpec("data", None)), *cut)
    (found,) = collectives.find(program, 8, {}, PARTS)
    assert (found.kind, found.times, found.group) == ("all-reduce", 5, (0, 1, 2, 3))
    assert found.payload == 8 * 32 * 4
    assert found.moved == 5 * 2 * (3 / 4) * 8 * 32 * 4


def test_a_gathered_weight_is_told_by_its_name():
    mesh = make_mesh(1, 8, 1)
    whole = NamedSharding(mesh, PartitionSpec())

    def run(x, w):
        return x @ jax.lax.with_sharding_constraint(w, whole)

    program = program_of(run, mesh, ((64, 32), PartitionSpec("fsdp")), ((32, 48), PartitionSpec("fsdp")))
    (found,) = collectives.find(program, 8, {"llm/head/kernel": ((32, 48), False)}, PARTS)
    assert found.kind == "all-gather"
    assert found.why == "frozen weights, gathered where they are used"
    assert found.moved == 7 / 8 * 32 * 48 * 4


def step_of(tmp_path, layout: Layout, sizes, *, family="llama") -> tuple[compiled.Described, list[Collective]]:
    (tmp_path / "config.json").write_text(json.dumps(training.config_json(family=family)))
    config = hf_instructblip.read_config(tmp_path / "config.json")
    setting = compiled.Setting(config, 16, compiled.Lengths(12, 12), layout=layout, dtype="float32", remat="layer")
    mesh = make_mesh(*sizes)
    described = compiled.describe(setting, mesh)
    program = Program(compiled.compiled(compiled.train_step(described), mesh).text)
    return described, collectives.find(program, 8, described.weights(), config.parts)


def test_of_a_frozen_model_that_every_device_has_only_gradients_are_sent(tmp_path):
    described, found = step_of(tmp_path, Layout(trained="replicated", vit="replicated", llm="replicated"), (8, 1, 1))
    reasons = Counter()
    for one in found:
        reasons[one.why] += one.payload * one.times
    gradients = sum(x.size * x.dtype.itemsize for x in described.train.values())
    assert {one.kind for one in found} == {"all-reduce"}
    # Of the table of positions only the rows of this length are summed.
    assert sum(reasons.values()) == pytest.approx(gradients, rel=0.05)
    assert "GRADIENTS OF FROZEN WEIGHTS" not in reasons


def test_a_cut_model_stays_where_it_is(tmp_path, monkeypatch):
    """Tensor parallelism sends activations; no layer's frozen weight is gathered, none has a gradient."""
    monkeypatch.setattr(stack, "SHORT", 0)  # scans, as on an accelerator: what a layer sends is told by its runs
    _, found = step_of(tmp_path, Layout(trained="replicated", vit="replicated", llm="tensor"), (4, 1, 2))
    of_layers = [one for one in found if one.part == "llm" and one.times == 3]
    sums = [one for one in of_layers if one.why == "partial sums of matrices that are cut"]
    assert {one.when for one in sums} == {"forward", "rematerialised", "backward"}
    assert {len(one.group) for one in sums} == {2}
    assert not [one for one in of_layers if "frozen" in one.why.lower()]


def test_a_language_model_that_trains_is_gathered_layer_by_layer(monkeypatch):
    """In pieces everywhere else: no device holds a stack of its weights, gradients or moments."""
    monkeypatch.setattr(stack, "SHORT", 0)
    vision = VitConfig(16, 32, 1, 2, 16, 8, patch_bias=False, pre_norm=True, post_norm=False)
    text = LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=2)
    setting = compiled.Setting(
        LlavaConfig(vision, text, image_token_id=3),
        8,
        compiled.Lengths(12, 12),
        layout=Layout(trained="zero", vit="replicated", llm="fsdp"),
        dtype="float32",
        remat="layer",
        trainable="projector_and_llm",
        optim=OptimConfig(accumulation=2, clip_norm=1.0),
    )
    mesh = make_mesh(1, 4, 1, devices=jax.devices()[:4])
    described = compiled.describe(setting, mesh)
    program = Program(compiled.compiled(compiled.train_step(described), mesh).text)
    found = collectives.find(program, 4, described.weights(), LlavaConfig.parts)
    gathers = [one for one in found if one.why == "trained weights, gathered where they are used" and one.part == "llm"]
    largest = max(x.size // x.shape[0] for path, x in described.train.items() if "/layers/" in path)
    head = described.train["llm/to_vocab/kernel"].size
    assert {one.times for one in gathers if one.payload > 4 * head // 2} >= {
        2 * 5
    }  # of each layer, in two micro-batches
    assert max(one.payload for one in gathers) <= 4 * max(largest, head)
    stacks = {tuple(x.shape) for path, x in described.train.items() if "/layers/" in path and x.ndim == 3}
    made = {
        x.shape for part in program.computations.values() for one in part.instructions.values() for x in one.results
    }
    assert not stacks & made
    held = described.bytes()
    assert held["optimizer"] == pytest.approx(2 * held["trained"], rel=0.01)
    assert held["trained"] < 4 * sum(x.size for x in described.train.values()) / 3


def test_the_roofline_uses_the_links_that_a_group_has():
    slice_ = parse("v5e:4x4")
    where = [(0, (n // 4, n % 4, 0)) for n in range(16)]
    gather = partial(Collective, "all-gather", 45e9, 1, when="", part="", why="", name="")
    # A line of four has one link at its ends, the square two, and each chip takes in all but its own part.
    assert roofline.sending(gather(group=(0, 1, 2, 3)), slice_, where) == pytest.approx((0.75, 0.0))
    assert roofline.sending(gather(group=tuple(range(16))), slice_, where) == pytest.approx((15 / 16 / 2, 0.0))
    # v4 closes to rings of four; over two slices each chip sends its share over the network.
    ring = [(0, (n, 0, 0)) for n in range(4)]
    assert roofline.sending(gather(group=(0, 1, 2, 3)), parse("v4:4x1x1"), ring) == pytest.approx((0.375, 0.0))
    two = [(n // 4, (n % 4, 0, 0)) for n in range(8)]
    inside, between = roofline.sending(gather(group=tuple(range(8))), parse("v4:4x1x1*2"), two)
    assert (inside, between) == pytest.approx((0.375, 45e9 / 4 / 2 / 6.25e9))


def test_the_bound_is_the_longest_of_all():
    roof = roofline.Roofline(compute=2.0, memory=1.0, links=3.0, network=0.5)
    assert (roof.bound, roof.limit, roof.sum) == (3.0, "links", 6.5)


@pytest.mark.parametrize("name", ["v5e", "v5e:4", "v5e:4x4x4", "v9:2x2", "v5e:0x4", "v5e:3x3", "h200:2x2"])
def test_a_topology_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="topology"):
        parse(name)


def test_a_topology_is_written_as_it_is_read():
    for name, devices in (("v5e:4x4", 16), ("v4:2x2x4", 16), ("v6e:2x4*3", 24), ("h200:8", 8)):
        assert (parse(name).name, parse(name).devices) == (name, devices)
