"""Which job an environment describes, without forming it."""

import http.server
import threading

import jax
import pytest

from instructblip_jax import distributed

JOB = {"JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_the_three_variables():
    assert distributed.explicit(JOB) == ("10.0.0.2:8476", 4, 3)
    assert distributed.explicit(JOB | {"JAX_COORDINATOR_ADDRESS": "[::1]:1"})[0] == "[::1]:1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"JAX_PROCESS_ID": ""}, ["JAX_PROCESS_ID is not set", "JAX_NUM_PROCESSES"]),
        ({"JAX_NUM_PROCESSES": "", "JAX_PROCESS_ID": ""}, ["JAX_NUM_PROCESSES, JAX_PROCESS_ID is not set"]),
        ({"JAX_PROCESS_ID": "4"}, ["JAX_PROCESS_ID is 4", "0 to 3"]),
        ({"JAX_PROCESS_ID": "-1"}, ["JAX_PROCESS_ID is '-1'"]),
        ({"JAX_NUM_PROCESSES": "four"}, ["JAX_NUM_PROCESSES is 'four'"]),
        ({"JAX_NUM_PROCESSES": "0", "JAX_PROCESS_ID": "0"}, ["JAX_PROCESS_ID is 0"]),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.2"}, ["JAX_COORDINATOR_ADDRESS is '10.0.0.2'", "HOST:PORT"]),
        ({"JAX_COORDINATOR_ADDRESS": ":8476"}, ["JAX_COORDINATOR_ADDRESS is ':8476'"]),
    ],
)
def test_an_environment_that_describes_no_job_is_told_by_name(changes, words):
    with pytest.raises(ValueError, match="JAX_") as caught:
        distributed.explicit(JOB | changes)
    assert all(word in str(caught.value) for word in words)


def test_a_first_process_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(distributed, "START_SECONDS", 0.5)
    for name, value in (JOB | {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1: not reached within 0\.5 s"):
        distributed.start()


def test_a_lone_process_forms_no_job(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")  # of an allocation, outside of a step
    monkeypatch.setattr(jax.distributed, "initialize", None)
    for job in ({}, JOB | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}):
        for name, value in job.items():
            monkeypatch.setenv(name, value)
        distributed.start()
    assert distributed.is_writer()
    distributed.barrier("nobody else comes")
    assert distributed.lost(ValueError("Gloo all-reduce failed")) is None


@pytest.mark.parametrize(
    ("visible", "tasks", "nodes", "place", "want"),
    [
        (None, 2, 2, 0, None),
        ("0,1,2,3,4,5,6,7", 2, 2, 0, [0, 1, 2, 3, 4, 5, 6, 7]),  # a task a node
        ("0,1,2,3", 8, 2, 3, [3]),  # a task a GPU
        ("0,1,2,3", 4, 2, 1, [2, 3]),
        ("0", 8, 2, 3, [0]),  # --gpus-per-task=1: each sees its own
    ],
)
def test_the_gpus_of_a_slurm_task(visible, tasks, nodes, place, want):
    step = {"SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_LOCALID": str(place)}
    step |= {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    assert distributed.slurm_devices(step) == want
    assert distributed.slurm_devices(step | {"JAX_LOCAL_DEVICE_IDS": "0"}) is None


def test_a_slurm_step_of_several_tasks_is_left_to_jax(monkeypatch):
    asked = []
    monkeypatch.setattr(distributed, "_start_obituary", lambda: None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *job, **options: asked.append((job, options)))
    step = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0"}
    for name, value in (step | {"CUDA_VISIBLE_DEVICES": "0,1"}).items():
        monkeypatch.setenv(name, value)
    distributed.start()
    ((job, options),) = asked
    assert job == ()
    assert options["local_device_ids"] == [0, 1]
    assert options["heartbeat_timeout_seconds"] < 60


# TPU


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_SKIP_MDS_QUERY": "1"}, False),  # jax found no chips
    ],
)
def test_the_hosts_of_a_pod_by_their_environment(environment, want):
    assert distributed._several_tpu_hosts(environment) == want


@pytest.mark.parametrize(
    ("attributes", "want"),
    [
        ({"worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2", "tpu-env": "TYPE: 'V4'"}, True),
        ({"worker-network-endpoints": "a:1:10.0.0.1", "tpu-env": "TYPE: 'V4'"}, False),
        ({"worker-network-endpoints": "a:1:10.0.0.1", "tpu-env": "X: 'a:b'\nMEGASCALE_NUM_SLICES: '2'\n"}, True),
        ({}, False),
    ],
)
def test_the_hosts_of_a_pod_by_the_metadata_of_their_machine(attributes, want):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = attributes.get(self.path.rpartition("/")[2])
            self.send_response(404 if text is None or self.headers["Metadata-Flavor"] != "Google" else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            found = distributed._several_tpu_hosts({"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"})
        finally:
            server.shutdown()
    assert found == want
