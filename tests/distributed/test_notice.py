"""A preemption notice that one process of a job gets: all of them save the same step and end.

The loop is the real one; its step is a sum over all devices, which compiles at once.
"""

import os
import signal
import socket
import subprocess
import sys
import time

LOOP = """
import sys
import time
import jax, jax.numpy as jnp, numpy as np
from etils import epath
from instructblip_jax import distributed, mesh as meshes
from instructblip_jax.train import log, loop
from instructblip_jax.train.meter import Meter
from instructblip_jax.train.stop import Stopped

distributed.start()
workdir = epath.Path(sys.argv[1])
mesh = meshes.make_mesh()
own = meshes.local_rows(mesh, 8)

class Ones:
    def __next__(self):
        time.sleep(0.02 * (1 + jax.process_index()))  # one is always ahead
        return {"x": np.ones(len(own), np.float32)}
    def get_state(self):
        return None

@jax.jit
def step(state, frozen, batch):
    total = batch["x"].sum()
    metrics = {"loss": total, "tokens": total, "grad_norm": total, "skipped_in_row": jnp.int32(0)}
    metrics |= {"terms": {"sum": total}, "counts": {"sum": total}, "weights": {"sum": jnp.float32(1)}}
    return {"steps": state["steps"] + 1}, metrics

def save(step, state, position):
    (workdir / f"saved-{jax.process_index()}").write_text(f"{step} {int(state['steps'])}")

with jax.set_mesh(mesh), Meter() as meter:
    metrics_log = log.MetricsLog(workdir / "metrics.jsonl", workdir / "events", step=0)
    job = loop.Job(0, 100_000, 1, 100_000, save, metrics_log, meter)
    state = meshes.replicate(mesh, {"steps": jnp.zeros((), jnp.int32)})
    try:
        loop.run(state, {}, step, Ones(), lambda x: meshes.put_rows(mesh, x, own, 8), job)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
"""


def test_sigterm_to_one_process_ends_all_after_the_same_step(environment, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOOP, tmp_path],
            env={**environment(2), **job, "JAX_PROCESS_ID": str(n)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    try:
        deadline = time.monotonic() + 200
        log = tmp_path / "metrics.jsonl"
        while not log.exists() or log.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.02)
        os.kill(processes[1].pid, signal.SIGTERM)  # not to the one that writes
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143, 143], said
    saved = [(tmp_path / f"saved-{n}").read_text() for n in range(2)]
    last = log.read_bytes().count(b"\n")
    assert saved == [f"{last} {last}"] * 2
    assert all(f"stopped by SIGTERM after step {last};" in text for text in said)
