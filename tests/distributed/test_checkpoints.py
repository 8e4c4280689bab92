"""Checkpoints of a job of several processes: all of them use the same one, and another number of processes can."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import toys
from worlds import without_gloo

JOB = """
import sys
import jax

address, count, index, what, directory = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from instructblip_jax.run.checkpoint import Checkpoints, weights_sha256
from instructblip_jax.mesh import make_mesh

mesh = make_mesh(-1, 2, 1)

def state(seed):
    values = np.random.default_rng(seed).standard_normal((8, 6), np.float32)
    def put(x, *spec):
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, PartitionSpec(*spec)), lambda at: x[at])
    train = {"split": put(values, ("data", "fsdp")), "whole": put(values[0])}
    memory = {"queue": put(values * 3, "data")}
    return {"step": put(np.int32(seed)), "train": train, "memory": memory, "opt": {"mu": put(values * 2, "fsdp")}}

checkpoints = Checkpoints(epath.Path(directory), keep=3)
if what == "save":
    for step in (1, 2):
        checkpoints.save(step, state(step), {"next": step}, "towers")
else:
    try:
        step = checkpoints.newest()
        restored = checkpoints.restore(step, state(0), "towers")
        assert checkpoints.place(step) == {"next": step}
        want = state(step)
        same = all(weights_sha256(restored[part]) == weights_sha256(want[part]) for part in ("train", "memory"))
        if what == "go on":
            checkpoints.save(2, state(2), {"next": 2}, "towers")
        print(f"process {index}: step {step}, as it was saved: {same}")
    except ValueError as error:
        print(f"process {index}: {error}")
checkpoints.close()
"""


def job(processes: int, what: str, directory) -> list[str]:
    """Run `JOB` in so many processes of two devices each; what each one printed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    env = os.environ | {"PYTHONPATH": str(toys.ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, address, str(processes), str(index), what, str(directory)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    ended = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0] * processes, ended
    return [without_gloo(out) for out, _ in ended]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 1 and 2, written by two processes."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    job(2, "save", directory)
    return directory


def test_one_process_reads_what_two_wrote(saved):
    assert job(1, "read", saved) == ["process 0: step 2, as it was saved: True\n"]


def test_all_processes_go_back_to_the_same_checkpoint_and_write_over_the_damaged_one(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "checkpoints")
    manifest = copy / "2" / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-3])
    first, second = job(2, "go on", copy)
    assert "skipped step 2" in first
    assert "2: damaged, deleted; step 2 is written now" in first
    assert first.endswith("process 0: step 1, as it was saved: True\n")
    assert second == "process 1: step 1, as it was saved: True\n"
    assert job(1, "read", copy) == ["process 0: step 2, as it was saved: True\n"]


def test_every_process_says_that_all_are_damaged(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "checkpoints")
    for step in ("1", "2"):
        shutil.rmtree(copy / step / "state")
    for index, said in enumerate(job(2, "read", copy)):
        assert said.startswith(f"process {index}: {copy}: every checkpoint is damaged: step 2 (")
