"""The table of chips against the makers' public figures, written down twice; and the figures derived from it."""

import pytest

from instructblip_jax.plan.chips import CHIPS, GIB, chip_of, parse
from instructblip_jax.plan.compiled import Lengths, Setting
from instructblip_jax.plan.report import Plan
from instructblip_jax.plan.roofline import Roofline
from instructblip_jax.recipes.public import PUBLIC

SPECS = {
    "v4": (275, 275, 32 * GIB, 1200, 600, 6, 1.05),
    "v5e": (197, 393, 16 * GIB, 819, 400, 4, 1.5),
    "v5p": (459, 918, 95 * GIB, 2765, 1200, 6, 1.75),
    "v6e": (918, 1836, 32 * GIB, 1638, 800, 4, 1.75),
    "a100-40": (312, 624, 40e9, 1555, 600, 0, 0),
    "a100-80": (312, 624, 80e9, 2039, 600, 0, 0),
    "h100": (989, 1978, 80e9, 3350, 900, 0, 0),
    "h200": (989, 1978, 141e9, 4800, 900, 0, 0),
}
"""Dense TFLOP/s in bfloat16, TOP/s in int8, bytes of memory, its GB/s; GB/s of all links, both ways; links;
GHz of a TPU."""
KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "NVIDIA A100-SXM4-40GB": "a100-40",
    "NVIDIA A100-SXM4-80GB": "a100-80",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
}


def test_every_chip_has_its_makers_figures():
    assert CHIPS.keys() == SPECS.keys()
    for name, (bf16, int8, memory, bandwidth, links, count, clock) in SPECS.items():
        chip = CHIPS[name]
        assert (chip.name, chip.bf16, chip.int8, chip.memory) == (name, bf16 * 1e12, int8 * 1e12, memory)
        assert chip.bandwidth == bandwidth * 1e9
        # One link, one way, at nine tenths of what a TPU's page says; a GPU has one way to a switch.
        assert chip.link == pytest.approx(0.9 * links / 2 / count * 1e9 if count else links / 2 * 1e9, rel=1e-12)
        assert 2 * chip.torus == count
        assert chip.clock == clock * 1e9


def test_a_chip_is_known_by_the_name_that_jax_has_for_it():
    assert {kind: chip_of(kind).name for kind in KINDS} == KINDS
    assert {kind for chip in CHIPS.values() for kind in chip.kinds} == KINDS.keys()
    assert chip_of("cpu") is None


@pytest.mark.parametrize(("name", "chips", "tera"), [("v5e:4x4*2", 32, 197), ("v6e:2x2", 4, 918), ("h100:8", 8, 989)])
def test_mfu_is_a_share_of_what_all_chips_together_can(name, chips, tera):
    topology = parse(name)
    setting = Setting(PUBLIC["Salesforce/instructblip-vicuna-7b"], 128, Lengths(64, 64))
    plan = Plan(setting, topology, True, 0.0, {}, 0.5 * chips * tera * 1e12, 0.0, Roofline(1.0, 2.0, 0.5, 0.0))
    assert plan.mfu == pytest.approx(0.25)  # half of a second's work in two seconds
    assert plan.samples_a_second == 64
