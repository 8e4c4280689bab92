"""Systems whose rows depend on one another, and some that read pictures among words: the same losses on one device, on
eight and in two processes; killed and resumed they end with the same bits."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

STEPS = 20
COMPARING = ("blip-2-stage-1", "albef", "blip")
KINDS = (*COMPARING, "kosmos-1", "flamingo", "frozen")
pytestmark = pytest.mark.long  # the laws hold a step on eight devices, and a restored state


@pytest.fixture(scope="module", params=KINDS)
def command(request, world, mini):
    """The command line of a run into a workdir."""
    model = mini(request.param)

    def line(workdir: Path, steps: int = STEPS) -> list[str]:
        given = {"model": model, "steps": steps, "mixture.sets": "caption,", "data.instruction_lengths": "32,"}
        given |= {"data.response_lengths": "32,", "optim.learning_rate": 1e-3, "optim.warmup_steps": 2}
        options = [f"--config.{name}={x}" for name, x in given.items()]
        return ["train", f"--config={world}/tiny.py", f"--workdir={workdir}", f"--json={workdir}.json", *options]

    return line


def report(workdir: Path) -> dict:
    return json.loads(Path(f"{workdir}.json").read_text())


def losses(workdir: Path) -> list[float]:
    return report(workdir)["losses"]


@pytest.fixture(scope="module")
def one(command, process, tmp_path_factory):
    """The workdir of a run on one device that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    result = process(*command(workdir))
    assert result.code == 0, result.err
    return workdir


def test_eight_devices_have_the_losses_of_one(command, process, one, tmp_path):
    result = process(*command(tmp_path / "eight"), devices=8)
    assert result.code == 0, result.err
    assert len(losses(one)) == STEPS
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(one), rtol=2e-4)


def test_two_processes_have_the_losses_of_one(command, start, one, tmp_path):
    results = start(2, *command(tmp_path / "two")).wait()
    assert [result.code for result in results] == [0, 0], results
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(one), rtol=2e-4)


def test_a_killed_run_ends_with_the_same_bits(command, environment, process, one, tmp_path):
    workdir = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-m", "instructblip_jax", *command(workdir)], env=environment()) as run:
        until = time.monotonic() + 300
        while run.poll() is None and not (workdir / "checkpoints" / "7").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    result = process(*command(workdir))
    assert result.code == 0, result.err
    assert "from step" in result.out
    assert report(workdir)["weights_sha256"] == report(one)["weights_sha256"]


def test_two_processes_find_what_one_finds(request, command, process, start, one, tmp_path):
    """Every process decodes its share of the pictures; places, scores and table are those of one."""
    if request.node.callspec.params["command"] not in COMPARING:
        pytest.skip("this system compares nothing")
    told = {}
    for name in ("alone", "two"):
        shutil.copytree(one, tmp_path / name)
        given = {"evaluation.held_in": "caption,", "evaluation.held_out": "()", "evaluation.batch_size": 8}
        given["evaluation.settings"] = "{'caption': {'mode': 'retrieval', 'split': 'train', 'rerank': 3}}"
        line = ["evaluate", *command(tmp_path / name)[1:], *(f"--config.{field}={x}" for field, x in given.items())]
        results = [process(*line)] if name == "alone" else start(2, *line).wait()
        assert [result.code for result in results] == [0] * len(results), results
        told[name] = json.loads(Path(f"{tmp_path / name}.json").read_text())["sets"]["caption"]
        told[name]["lines"] = (tmp_path / name / "predictions" / "caption.jsonl").read_text()
    assert told["two"] == told["alone"]
    assert told["alone"]["details"]["recalls"] != told["alone"]["details"]["by_similarity"]
