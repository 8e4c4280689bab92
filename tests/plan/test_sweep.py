"""Which ways a sweep considers and how it ranks them, before anything is compiled."""

import dataclasses
import importlib.util

import pytest

from instructblip_jax.plan import compiled, sweep
from instructblip_jax.plan.chips import GIB, parse
from instructblip_jax.plan.compiled import Lengths, Setting
from instructblip_jax.plan.estimate import Estimate
from instructblip_jax.plan.report import Plan
from instructblip_jax.plan.roofline import Roofline
from instructblip_jax.recipes.public import PUBLIC
from instructblip_jax.sharding import Layout

SEVEN = Setting(PUBLIC["Salesforce/instructblip-vicuna-7b"], 128, Lengths(64, 64))


def test_every_way_uses_all_chips_and_is_considered_once():
    topology = parse("v5e:4x4*2")
    ways = sweep.ways(SEVEN, topology)
    assert len(set(ways)) == len(ways) > 50
    for way in ways:
        data, fsdp, tensor = way.mesh
        assert data * fsdp * tensor == topology.devices
        assert data % topology.slices == 0  # only rows lie across the slow network
    assert {way.layout.of("llm") for way in ways} == {"replicated", "fsdp", "tensor", "sequence", "sharded"}
    assert len(sweep.ways(SEVEN, parse("v5e:1x1"))) == 6  # int8 or not, and what is kept


def test_guesses_rank_as_the_compiled_programs_do():
    """vicuna-7b on v5e:4x4, compiled: replicated int8 is bound by arithmetic, tensor and fsdp send nearly as long."""
    topology = parse("v5e:4x4")
    given = 10 * GIB

    def guess(llm: str, remat: str = "layer", int8: bool = False) -> sweep.Guess:
        ways = sweep.ways(SEVEN, topology)
        way = next(w for w in ways if (w.layout.of("llm"), w.remat, w.int8) == (llm, remat, int8))
        return sweep.guess(way, topology, given)

    replicated = guess("replicated", int8=True)
    assert replicated.seconds <= min(guess("tensor").seconds, guess("fsdp").seconds)
    # The compiler's own figure for this one is 264 ms of arithmetic and 1.6 GiB of temporaries.
    assert 0.2 < replicated.seconds < 0.3
    assert 1 < replicated.memory / GIB - 10 < 3
    kept = [guess("replicated", remat).memory for remat in ("layer", "products", "none")]
    assert kept == sorted(kept)


def test_a_language_model_that_trains_is_not_offered_in_int8():
    config = type("Whole", (type(SEVEN.model),), {"trainable_sets": {"all": ("",)}})(**vars(SEVEN.model))
    ways = sweep.ways(Setting(config, 128, Lengths(64, 64)), parse("v5e:1x1"))
    assert [(way.int8, way.remat) for way in ways] == [(False, remat) for remat in ("none", "layer", "products")]


def test_compiled_ways_are_ranked_by_their_likely_time(monkeypatch):
    """The one with the shortest bound may lose more beside its products; what does not fit comes last."""
    topology = parse("v5e:1x1")
    times = {"none": (0.2, 0.5), "layer": (0.3, 0.4), "dots": (0.1, 0.6)}  # bound, likely
    guesses = [sweep.Guess(dataclasses.replace(SEVEN, remat=remat), 0.0, 0.0) for remat in times]

    def plan(setting, topology, devices):
        bound, likely = times[setting.remat]
        roof = Roofline(bound, 0.0, 0.0, 0.0)
        made = Estimate(bound, likely, 0.0, 0.0)
        return Plan(setting, topology, setting.remat != "none", 0.0, {}, 1.0, 1.0, roof, estimate=made)

    monkeypatch.setattr(sweep, "best_first", lambda *_: guesses)
    monkeypatch.setattr(sweep, "plan", plan)
    assert [made.setting.remat for made in sweep.fastest(SEVEN, topology, [])] == ["layer", "dots", "none"]


CASES = {
    "flan-t5-xl": ("v5e:4x4", 192, (16, 1, 1), "replicated", False, 11.9, 113),
    "vicuna-7b": ("v4:2x2x1", 128, (4, 1, 1), "replicated", False, 23.7, 757),
    "vicuna-13b": ("v4:2x2x1", 64, (4, 1, 1), "replicated", True, 20.8, 703),
}
"""Model -> slice, rows, mesh, layout, int8; and the compiler's GiB a chip and ms of arithmetic (docs/plan.md)."""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'jax[tpu]'")
@pytest.mark.parametrize("name", CASES)
def test_guesses_are_near_the_compilers_figures(name):
    topology, rows, mesh, layout, int8, gib, milliseconds = CASES[name]
    model, slice_ = PUBLIC[f"Salesforce/instructblip-{name}"], parse(topology)
    layouts = Layout(trained="replicated", vit="replicated", llm=layout)
    setting = Setting(model, rows, Lengths(64, 64), mesh, layouts, "layer", int8, trainable="original")
    described = compiled.describe(setting, compiled.mesh_of(setting, compiled.devices(slice_)))
    made = sweep.guess(setting, slice_, sum(described.bytes().values()))
    assert made.memory / GIB == pytest.approx(gib, rel=0.15)
    assert made.seconds == pytest.approx(milliseconds / 1e3, rel=0.01)
