"""`instructblip plan` on a machine without a TPU: real programs of the digits model, and what it refuses."""

import importlib.util
import json

import pytest

from instructblip_jax.plan.chips import GIB

CONFIG = "--config=configs/digits.py"
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'jax[tpu]'")


@needs_libtpu
def test_a_plan_tells_people_and_programs_the_same(cli, tmp_path):
    out = tmp_path / "plan.json"
    layout = ("--config.mesh.tensor=2", "--config.layout.llm=tensor", "--config.layout.vit=replicated")
    done = cli("plan", CONFIG, *layout, "--topology=v5e:2x2", "--batch_size=16", f"--json={out}")
    assert done.code == 0, done.err
    plan = json.loads(out.read_text())
    assert plan["fits"]
    assert plan["mesh"] == {"data": 2, "fsdp": 1, "tensor": 2}
    assert (plan["batch_size"], plan["lengths"]["instruction"], plan["lengths"]["response"]) == (16, 24, 16)
    # The parts are the whole, and Adam's two moments are twice what trains.
    assert sum(plan["bytes"].values()) == pytest.approx(plan["peak_bytes_per_chip"])
    assert plan["bytes"]["optimizer"] == pytest.approx(2 * plan["bytes"]["trained"], rel=1e-3)
    # All chips together do the recipe's work, and somewhat more; no frozen weight of a layer is sent.
    assert 0.9 < 4 * plan["executed_flops_per_chip"] / plan["model_flops_per_step"] < 1.5
    sent = plan["collectives"]
    assert {"gradients of what trains", "partial sums of matrices that are cut"} <= {one["why"] for one in sent}
    assert not [one for one in sent if "GRADIENTS OF FROZEN" in one["why"]]
    bound = plan["step_seconds_bound"]
    assert bound == max(plan["roofline_seconds"].values())
    assert plan["mfu_bound"] == pytest.approx(plan["model_flops_per_step"] / (bound * 4 * 197e12))
    assert plan["hours_for_run"] == pytest.approx(bound * plan["steps"] / 3600)
    generation = plan["generation"]
    assert generation["tokens_per_second_bound"] == pytest.approx(100 / generation["token_seconds_bound"])
    assert f"**{plan['peak_bytes_per_chip'] / GIB:.3f}**" in done.out
    assert "It fits" in done.out


@needs_libtpu
def test_what_does_not_fit_is_told_with_what_to_change(cli, tmp_path):
    out = tmp_path / "plan.json"
    done = cli("plan", CONFIG, "--topology=v5e:1x1", "--batch_size=200000", f"--json={out}")
    assert done.code == 0, done.err
    plan = json.loads(out.read_text())
    assert not plan["fits"]
    assert plan["peak_bytes_per_chip"] > 15.75 * GIB
    assert "IT DOES NOT FIT" in done.out
    for remedy in ("--config.remat=layer", "half the batch (100000)", "a larger slice"):
        assert remedy in done.out


def test_without_the_compiler_it_says_how_to_get_it(cli, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "libtpu" else find(name, *rest)
    )
    done = cli("plan", CONFIG, "--topology=v5e:2x2")
    assert done.code == 1
    assert "pip install 'jax[tpu]'" in done.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--topology=v5e:2x2"], "--config"),
        ([CONFIG], "--topology"),
        ([CONFIG, "--topology=v5e"], "v5e:4x4"),
        ([CONFIG, "--topology=v5e:2x2", "--lengths=64"], "--lengths"),
        ([CONFIG, "--topology=v5e:2x2", "--batch_size=0"], "--batch_size"),
        ([CONFIG, "--topology=v5e:2x2", "more"], "more"),
    ],
)
def test_a_wrong_command_line_is_told(cli, args, said):
    done = cli("plan", *args)
    assert done.code == 2
    assert said in done.err


@needs_libtpu
def test_a_model_it_does_not_know_is_told(cli):
    done = cli("plan", CONFIG, "--config.model=somebody/model", "--topology=v5e:2x2")
    assert done.code == 1
    assert "Salesforce/instructblip-vicuna-7b" in done.err
