"""`train` killed at random moments and started again: `pytest tests/commands/test_kills.py --kills 50` for many."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LONGEST = 300  # seconds, of anything that is waited for


def committed(workdir: Path) -> int:
    """The newest step whose checkpoint stands; 0 where there is none."""
    there = workdir / "checkpoints"
    return max((int(path.name) for path in there.glob("*") if path.name.isdigit()), default=0)


def logged(workdir: Path) -> int:
    log = workdir / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def unfinished(workdir: Path) -> set[str]:
    """Checkpoints that are being written, and those that a kill left."""
    return {path.name for path in (workdir / "checkpoints").glob("*-tmp*")}


def saving(workdir: Path, left: set[str]):
    return lambda: unfinished(workdir) - left


def training(workdir: Path, step: int):
    return lambda: logged(workdir) >= step


@dataclasses.dataclass(frozen=True)
class Life:
    """One start of the command: the step it said it goes on from (None: killed before), whether it was killed."""

    begun: int | None
    killed: bool
    errors: str


def live(environment, world: Path, workdir: Path, moment, delay: float) -> Life:
    """Start `train`, kill it ``delay`` seconds after ``moment()`` holds, unless it has ended by then."""
    given = [f"--config={world / 'tiny.py'}", f"--workdir={workdir}", f"--json={workdir}.json"]
    with subprocess.Popen(
        [sys.executable, "-m", "instructblip_jax", "train", *given],
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        deadline = time.monotonic() + LONGEST
        while run.poll() is None and not moment():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        out, errors = run.communicate()
        told = re.search(r"from (?:step (\d+)|the start)$", out, re.MULTILINE)
        return Life(int(told[1] or 0) if told else None, run.returncode == -signal.SIGKILL, errors)


@pytest.mark.long
@pytest.mark.timeout(0)  # many kills take long; each start of the run has a limit of its own
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_been(
    environment, world, finished, tmp_path, pytestconfig
):
    """While it trains, while it saves, while it starts. A run that came to its end is followed by another one."""
    _, report = finished
    seed = random.SystemRandom().randrange(1 << 30)
    rng, kills, runs, lost = random.Random(seed), 0, 0, 0
    print("seed", seed)
    while kills < pytestconfig.getoption("kills"):
        workdir, runs = tmp_path / f"run{runs}", runs + 1
        while not Path(f"{workdir}.json").exists():
            newest, left = committed(workdir), unfinished(workdir)
            if kills == pytestconfig.getoption("kills"):
                moment, delay = (lambda: False), 0.0
            else:
                kinds = [
                    (training(workdir, newest + rng.randint(1, 10)), rng.uniform(0, 0.02)),
                    (saving(workdir, left), rng.uniform(0, 0.1)),
                    (lambda: True, rng.uniform(1, 8)),  # while it starts
                ]
                ((moment, delay),) = rng.choices(kinds, weights=(5, 5, 1))
            life = live(environment, world, workdir, moment, delay)
            assert life.begun in (None, newest), (seed, life)  # None: it was killed before it could say
            assert life.killed or Path(f"{workdir}.json").exists(), (seed, life.errors)
            kills += life.killed
            lost += max(0, logged(workdir) - committed(workdir)) if life.killed else 0
            print(f"run {runs}, kill {kills}: began at {life.begun}, {newest} -> {committed(workdir)} committed")
        again = json.loads(Path(f"{workdir}.json").read_text())
        assert again["weights_sha256"] == report["weights_sha256"], seed
        assert again["losses"] == report["losses"], seed
        steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, report["steps"] + 1)), seed
        assert committed(workdir) == report["steps"]
        assert not unfinished(workdir)
        shutil.rmtree(workdir)
    print(f"{kills} kills of {runs} runs; {lost} logged steps were done twice")
