"""How a real run of `train` may end before its time, and what it leaves to look at."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SLOW = """
import sys, time
from instructblip_jax.train import loop, watchdog

watchdog.PATIENCE = 1.0
settle = loop.guard.check

def slow(step, *more):
    time.sleep({seconds} if step == {step} else 0.0)
    return settle(step, *more)

loop.guard.check = slow
from instructblip_jax.__main__ import main
sys.exit(main())
"""


def command(world, workdir, *more):
    return ["train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", *more]


def entries(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_tells_what_it_did_with_its_time(finished):
    workdir, _ = finished
    lines = entries(workdir)
    late = lines[15:]  # after the first steps of both response lengths
    assert sum(line["compilations"] for line in lines) >= 1
    assert {line["compilations"] for line in late} == {0}
    assert lines[-1]["learning_rate"] < max(line["learning_rate"] for line in lines)
    assert all(line["samples_per_second"] > 0 and line["memory"]["host"] > 1e8 for line in lines)
    assert sum(lines[-1]["samples"].values()) == 30 * 8
    assert lines[-1]["samples"].keys() == {"caption", "digit_at", "count"}
    known = [line for line in lines if len(line["losses"]) == 3]
    assert all(min(line["losses"].values()) <= line["loss"] <= max(line["losses"].values()) for line in known)
    goodput = json.loads((workdir / "train.json").read_text())["goodput"]
    assert sum(goodput.values()) == pytest.approx(1, abs=1e-3)
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines
    ]


def test_sigterm_saves_and_the_same_command_ends_with_the_same_weights(environment, process, world, finished, tmp_path):
    workdir = tmp_path / "run"
    # Step 10 takes long, so that the signal comes in the middle of the run.
    source = SLOW.format(seconds=4, step=10)
    with subprocess.Popen(
        [sys.executable, "-c", source, *command(world, workdir)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        deadline = time.monotonic() + 240
        while len(entries(workdir) if (workdir / "metrics.jsonl").exists() else []) < 9:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGTERM)
        err = run.communicate(timeout=240)[1]
    assert run.returncode == 143, err
    last = len(entries(workdir))
    assert 9 <= last < 30
    assert err.splitlines()[-1] == (
        f"instructblip train: stopped by SIGTERM after step {last}; the same command resumes from there"
    )
    assert "Traceback" not in err
    assert (workdir / "checkpoints" / str(last)).exists()
    assert "instructblip train: no step has finished for " in err  # the watchdog: step 10 took long

    result = process(*command(world, workdir, "--profile=29:30"))
    assert result.code == 0, result.err
    assert f"from step {last}" in result.out
    assert "| samples/s" in result.out
    assert len(list((workdir / "profile").rglob("*.xplane.pb"))) == 1
    again, want = (json.loads((path / "train.json").read_text()) for path in (workdir, finished[0]))
    assert again["weights_sha256"] == want["weights_sha256"]
    assert again["losses"] == want["losses"]
    assert entries(workdir)[-1]["samples"] == entries(finished[0])[-1]["samples"]  # the counts go on, too
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 31))
    np.testing.assert_allclose([e.value for e in events.Scalars("loss")], want["losses"], rtol=1e-6)


def test_a_second_sigterm_ends_at_once(environment, world, tmp_path):
    workdir = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW.format(seconds=120, step=3), *command(world, workdir)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        while not (workdir / "metrics.jsonl").exists() or len(entries(workdir)) < 2:
            assert run.poll() is None
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGTERM)
        time.sleep(1.0)
        assert run.poll() is None  # step 3 goes on
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(timeout=20) == -signal.SIGTERM


def test_a_range_of_steps_that_is_none_is_a_wrong_command_line(cli, world, tmp_path):
    result = cli(*command(world, tmp_path / "run", "--profile=8:5"))
    assert result.code == 2
    assert result.err == (
        "instructblip train: --profile '8:5': give the first and the last step to trace, such as 20:24\n"
    )
    assert not (tmp_path / "run").exists()
