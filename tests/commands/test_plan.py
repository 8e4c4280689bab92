"""`instructblip plan` on a machine without a TPU: real programs of a tiny model, its verdict, and what it refuses."""

import importlib.util
import json

import pytest
import toys
import worlds

from instructblip_jax.plan import compiled, report, sweep
from instructblip_jax.plan.chips import GIB
from instructblip_jax.plan.compiled import DoesNotFit
from instructblip_jax.plan.estimate import Estimate
from instructblip_jax.plan.report import Generation, Plan
from instructblip_jax.plan.roofline import Roofline

CONFIG = "--config=configs/digits.py"
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'jax[tpu]'")


@pytest.fixture
def tiny(tmp_path):
    """The configuration of a tiny model; no set is there, and none is needed."""
    path = tmp_path / "tiny.py"
    path.write_text(worlds.CONFIG.format(model=toys.write_model(tmp_path / "model"), sets=tmp_path / "sets"))
    return f"--config={path}"


@needs_libtpu
def test_a_plan_tells_people_and_programs_the_same(cli, tiny, tmp_path):
    out = tmp_path / "plan.json"
    done = cli("plan", tiny, "--config.mesh.tensor=2", "--topology=v5e:2x2", "--batch_size=16", f"--json={out}")
    assert done.code == 0, done.err
    plan = json.loads(out.read_text())
    assert plan["fits"]
    assert plan["mesh"] == {"data": 2, "fsdp": 1, "tensor": 2}
    assert (plan["batch_size"], plan["lengths"]["instruction"], plan["lengths"]["response"]) == (16, 40, 24)
    # The parts are the whole, and Adam's two moments are twice what trains.
    assert sum(plan["bytes"].values()) == pytest.approx(plan["peak_bytes_per_chip"])
    assert plan["bytes"]["optimizer"] == pytest.approx(2 * plan["bytes"]["trained"], rel=1e-3)
    # All chips together do the recipe's work, and somewhat more; no frozen weight is sent.
    assert 0.9 < 4 * plan["executed_flops_per_chip"] / plan["model_flops_per_step"] < 1.5
    sent = plan["collectives"]
    assert {"gradients of what trains", "partial sums of matrices that are cut"} <= {one["why"] for one in sent}
    assert not [one for one in sent if "frozen" in one["why"].lower()]
    bound = plan["step_seconds_bound"]
    assert bound == max(plan["roofline_seconds"].values())
    assert plan["mfu_bound"] == pytest.approx(plan["model_flops_per_step"] / (bound * 4 * 197e12))
    assert plan["hours_for_run"] == pytest.approx(bound * plan["steps"] / 3600)
    per_op, likely = plan["step_seconds_per_op"], plan["step_seconds_likely"]
    assert bound < per_op < likely
    assert plan["mfu_likely"] == pytest.approx(plan["mfu_bound"] * bound / likely)
    assert plan["mfu_per_op"] == pytest.approx(plan["mfu_bound"] * bound / per_op)
    assert plan["hours_for_run_likely"] == pytest.approx(likely * plan["steps"] / 3600)
    assert sum(one["seconds"] for one in plan["losses"]) == pytest.approx(likely)
    assert f"| ms a step | {1e3 * bound:,.3g} | {1e3 * per_op:,.3g} | **{1e3 * likely:,.3g}** |" in done.out
    assert "| where the likely time goes | part | ms | % |" in done.out
    generation = plan["generation"]
    assert generation["tokens_per_second_bound"] == pytest.approx(8 / generation["token_seconds_bound"])
    assert generation["token_seconds_likely"] >= generation["token_seconds_bound"]
    assert generation["token_bytes_per_chip"] > generation["weight_bytes_per_chip"] > 0
    assert f"**{plan['peak_bytes_per_chip'] / GIB:.3f}**" in done.out
    last = done.out.splitlines()[-1]
    assert last.startswith(
        "It fits v5e:2x2: 0.01 of 15.75 GiB a chip at 40 + 24 tokens, its largest shape (compiled in"
    )
    told = done.err.splitlines()  # the compiler's library has nothing to add
    assert [line for line in told if line] == ["compiling the train step for v5e:2x2 ...", "compiling generation ..."]


@needs_libtpu
def test_what_does_not_fit_is_told_with_what_to_change(cli, tiny, tmp_path):
    out = tmp_path / "plan.json"
    done = cli("plan", tiny, "--topology=v5e:1x1", "--batch_size=20000000", "--sweep", f"--json={out}")
    assert done.code == 1
    plan = json.loads(out.read_text())
    assert not plan["fits"]
    assert plan["sweep"] == {"tried": []}
    assert plan["peak_bytes_per_chip"] > 15.75 * GIB
    assert "| **peak, of 15.75 usable** |" in done.out
    for remedy in ("\n- --config.remat=layer", "or --config.batch_size=10000000, leaves 1/2 of", "a larger slice"):
        assert remedy in done.out
    verdict = done.err.splitlines()[-1]
    peak = f"{plan['peak_bytes_per_chip'] / GIB:.2f} of 15.75 GiB a chip at 40 + 24 tokens, its largest shape"
    assert verdict.startswith(f"instructblip plan: IT DOES NOT FIT v5e:1x1: {peak}; first of all, --config.remat=layer")


@pytest.fixture
def compiler(monkeypatch):
    """In place of the compiler: ``compiler(peaks, answers, swept)`` has a train step take so many GiB at each length of
    the response, answers so many, or be too much (None), and the ways of a sweep."""

    def plan_of(setting, topology, peak: float) -> Plan:
        fits, size = peak <= 15.75, peak * GIB
        roof = Roofline(0.5, 0.25, 0.0, 0.0) if fits else None
        made = Estimate(0.6, 0.8, 0.0, 1e9) if fits else None
        parts = {"frozen": 0.0, "temporaries": size}
        return Plan(setting, topology, fits, size, parts, 4e12, 1e12, roof, estimate=made)

    def use(peaks: dict[int, float], answers: float | None = 1.0, swept: tuple[float, ...] = ()) -> None:
        def generation(setting, *_, **__):
            if answers is None:
                raise DoesNotFit(99 * GIB, True)
            roof = Roofline(0.5, 0.25, 0.0, 0.0)
            return Generation(
                setting.rows, 1, answers <= 15.75, 0.5 * GIB, answers * GIB, roof, roof, 0.6, 0.6, 3e9, 2e9
            )

        def fastest(setting, topology, *_):
            return [plan_of(setting, topology, peak) for peak in swept]

        monkeypatch.setattr(compiled, "devices", lambda topology: [None] * topology.devices)
        monkeypatch.setattr(report, "plan", lambda s, where, _: plan_of(s, where, peaks[s.lengths.response]))
        monkeypatch.setattr(report, "generation", generation)
        monkeypatch.setattr(sweep, "fastest", fastest)
        monkeypatch.setattr(sweep, "largest_batch", lambda best, _: best)

    return use


SEVEN = ("plan", "--config=configs/instructblip_vicuna7b.py", "--topology=v5e:2x2")
LARGEST = "of 15.75 GiB a chip at 128 + 256 tokens, its largest shape"
FITS = f"It fits v5e:2x2: 15.50 {LARGEST} (compiled in 0 s)"
DOES_NOT = "IT DOES NOT FIT v5e:2x2: "


@pytest.mark.parametrize(
    ("peaks", "answers", "verdict"),
    [
        ({64: 9.0, 256: 15.5}, 1.0, FITS),
        ({64: 9.0, 256: 15.5}, None, f"{FITS}; answering 64 at a time does not fit"),
        ({64: 9.0, 256: 15.5}, 16.0, f"{FITS}; answering 64 at a time does not fit"),
        ({64: 9.0, 256: 24.5}, 1.0, f"{DOES_NOT}24.50 {LARGEST}; first of all, "),
        ({64: 15.77}, 1.0, f"{DOES_NOT}15.77 of 15.75 GiB a chip at 64 + 64 tokens; first of all, "),
    ],
)
def test_the_last_line_and_the_exit_status_say_whether_the_run_fits(cli, compiler, tmp_path, peaks, answers, verdict):
    compiler(peaks, answers)
    done = cli(*SEVEN, f"--json={tmp_path / 'plan.json'}")
    plan = json.loads((tmp_path / "plan.json").read_text())  # either way
    fits = verdict.startswith("It fits")
    assert (done.code, plan["fits"]) == (0, True) if fits else (1, False)
    assert plan["peak_bytes_per_chip"] == max(peaks.values()) * GIB
    last = done.out.splitlines()[-1] if fits else done.err.splitlines()[-1].removeprefix("instructblip plan: ")
    assert last.startswith(verdict)
    assert (last == verdict) == fits  # or what helps follows
    assert "| memory of a chip | GiB |" in done.out


@pytest.mark.parametrize(("swept", "code"), [((12.0, 30.0), 0), ((30.0,), 1), ((), 1)])
def test_a_sweep_that_finds_a_way_is_no_failure(cli, compiler, swept, code):
    compiler({64: 9.0, 256: 24.5}, swept=swept)
    done = cli(*SEVEN, "--sweep")
    assert done.code == code
    told = (done.out if code == 0 else done.err).splitlines()[-1]
    assert f"{DOES_NOT}24.50 {LARGEST}" in told
    assert told.endswith("; the first row of the sweep does, at 64 + 64 tokens") == (code == 0)
    assert ("No setting fits" in done.out) == (code == 1)


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
