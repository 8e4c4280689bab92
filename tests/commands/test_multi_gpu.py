"""launch/multi_gpu.sh for real: two processes of two devices train, until one is killed.

In CI the script is held by tests/launch/test_running.py, and the processes by tests/distributed/test_jobs.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toys


def read(path: Path) -> str:
    """A file of /proc, empty where its process has ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def processes(job: int) -> list[int]:
    """The training processes that a script has begun, in their order."""
    children = map(int, read(Path(f"/proc/{job}/task/{job}/children")).split())
    return sorted(pid for pid in children if "instructblip_jax" in read(Path(f"/proc/{pid}/cmdline")))


@pytest.mark.long
def test_two_processes_train_and_when_one_is_killed_the_job_ends_with_one_message(environment, world, tmp_path):
    workdir = tmp_path / "run"
    metrics = workdir / "metrics.jsonl"
    train = ["train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}"]
    command = ["bash", str(toys.ROOT / "launch" / "multi_gpu.sh"), "--processes", "2", *train]
    settings = {**environment(devices=2), "INSTALL": "0", "VENV": sys.prefix}

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=settings, cwd=tmp_path, start_new_session=True, **pipes) as job:
        try:
            deadline = time.monotonic() + 240
            while job.poll() is None and time.monotonic() < deadline:
                if metrics.exists() and metrics.read_bytes().count(b"\n") >= 9:
                    break
                time.sleep(0.01)
            _, one = processes(job.pid)
            os.kill(one, signal.SIGKILL)
            out, err = job.communicate(timeout=60)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 128 + signal.SIGKILL
    told = [line for line in err.splitlines() if line.startswith("multi_gpu.sh: ")]
    assert len(told) == 1
    assert re.match("multi_gpu.sh: process 1 of 2 ended with signal 9, so the others were stopped", told[0])
    assert "mesh data 4" in out
    losses = [json.loads(line)["loss"] for line in metrics.read_text().splitlines()[:9]]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert not (workdir / "train.json").exists()
    assert not [
        path for path in Path("/proc").glob("[0-9]*/cmdline") if str(workdir) in read(path)
    ]  # nothing still runs
