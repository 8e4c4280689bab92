"""The public models' real steps, compiled for the slices that their configurations name. By hand or at night:

pytest -m full_size tests/plan/test_full_size_plans.py      (a minute or two of compiling each)
"""

import dataclasses
import importlib.util
import time
from functools import cache

import pytest
from test_configs import VARIANTS, run_of

from instructblip_jax.commands.plan import settings
from instructblip_jax.models.layers.stack import REMAT
from instructblip_jax.plan import compiled, report, sweep
from instructblip_jax.plan.chips import parse
from instructblip_jax.plan.report import Plan
from instructblip_jax.sharding import Layout

pytestmark = [
    pytest.mark.full_size,
    pytest.mark.timeout(0),
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'jax[tpu]'"),
]
NO_GPU_COMPILER = importlib.util.find_spec("jax_plugins") is None
GPUS_SKIP = pytest.mark.skipif(NO_GPU_COMPILER, reason="pip install -e '.[plan-gpu]'")
SLICES = [
    pytest.param(name, variant, marks=[GPUS_SKIP] if variant.startswith("gpu") else [])
    for name, variant in VARIANTS
    if variant
]


def topology_of(variant: str):
    return parse(variant.replace("gpu_", "h200:").replace("_", ":"))


@cache
def planned(name: str, variant: str, largest: bool = False) -> Plan:
    topology = topology_of(variant)
    return report.plan(settings(run_of(name, variant), (64, 64))[largest], topology, compiled.devices(topology))


@pytest.mark.parametrize(("name", "variant"), SLICES)
def test_a_configuration_fits_its_slice_at_forty_percent_or_more(name, variant):
    plan = planned(name, variant)
    assert plan.fits
    assert plan.mfu >= 0.4
    assert sum(plan.bytes.values()) == pytest.approx(plan.peak)
    # What the arrays of the step are said to take is what the compiler takes for its arguments.
    assert plan.bytes["padding"] < 0.01 * plan.peak


@pytest.mark.parametrize(("name", "variant"), SLICES)
def test_its_largest_shape_fits_too(name, variant):
    assert planned(name, variant, largest=True).fits


@pytest.mark.parametrize(("name", "variant"), SLICES)
def test_frozen_weights_stay_and_have_no_gradient(name, variant):
    """A weight may be gathered once a pass where it is kept in pieces, and again where a layer is done again."""
    plan = planned(name, variant)
    reasons = {one.why for one in plan.collectives}
    assert "GRADIENTS OF FROZEN WEIGHTS" not in reasons
    if plan.setting.layout.of("llm") == "replicated":
        assert not [why for why in reasons if "frozen" in why]
    assert plan.setting.remat.partition(":")[0] in REMAT


def test_a_gathered_model_is_gathered_once_a_pass():
    """vicuna-7b kept in pieces on v5e:4x4: forward, once more for rematerialisation, backward; nothing beyond."""
    topology = parse("v5e:4x4")
    setting, _ = settings(run_of("vicuna7b", "v5e_4x4"), (64, 64))
    layout = Layout(**dict(setting.layout.named) | {"llm": "fsdp"})
    setting = dataclasses.replace(setting, mesh=(1, 16, 1), layout=layout, int8=False, remat="layer")
    plan = report.plan(setting, topology, compiled.devices(topology))
    layers = 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    gathered = dict.fromkeys(("forward", "rematerialised", "backward"), 0.0)
    for one in plan.collectives:
        if one.kind == "all-gather" and "frozen" in one.why and one.times == 32:
            gathered[one.when] += one.payload * one.times
    assert gathered["forward"] <= 1.05 * layers
    assert gathered["rematerialised"] + gathered["backward"] <= 2.1 * layers


def test_compiling_does_not_grow_with_the_layers():
    topology = parse("v6e:4x4")
    devices = compiled.devices(topology)
    full, _ = settings(run_of("vicuna13b", "v6e_4x4"), (64, 64))
    text = dataclasses.replace(full.model.text, num_hidden_layers=4)
    short = dataclasses.replace(full, model=dataclasses.replace(full.model, text=text))
    seconds = []
    for setting in (short, full):
        begun = time.process_time()  # whatever else the machine does
        report.plan(setting, topology, devices)
        seconds.append(time.process_time() - begun)
    assert seconds[1] <= 2 * seconds[0], seconds


def test_a_sweep_finds_a_way_that_fits_and_its_largest_batch():
    topology = parse("v5e:4x4")
    devices = compiled.devices(topology)
    setting, _ = settings(run_of("vicuna7b", "v5e_4x4"), (64, 64))
    best, *_ = sweep.fastest(setting, topology, devices)
    assert best.fits
    largest = sweep.largest_batch(best, devices)
    assert largest.fits
    assert largest.setting.rows >= 128
