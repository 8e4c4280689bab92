"""A job of several processes, formed from the environment. A lone process is a job of one, and asks nobody.

Recognised, in this order: JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID, all three; a Slurm
step of several tasks; the hosts of a TPU pod slice, or of several slices. Every process runs the same command.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
START_SECONDS = 300
"""How long the processes of a job wait for one another at the start."""
HEARTBEAT_SECONDS = 40
"""A process that was not heard of for so long is taken for dead, and the others end."""
_AGAIN = "start the job again: it goes on from the last checkpoint"
_LAST_WORDS = (
    'read -r said || echo "instructblip: this process was ended, most likely because another process of this job is '
    f'gone, whose own messages may tell why; {_AGAIN}" >&2'
)
_GONE = ("gloo", "coordination service", "heartbeat", "connection closed by peer", "connection reset", "barrier")
"""Words of the errors that the end of another process brings, in lower case."""


_shell: subprocess.Popen | None = None


def start() -> None:
    """Join the job that the environment describes; called before anything else is asked of jax.

    The first process alone talks: what the others print goes nowhere, but for errors.

    Raises ValueError for an environment that is wrong or incomplete, ConnectionError where the others are not reached.
    """
    if jax.distributed.is_initialized():
        return
    environment = os.environ
    if any(name in environment for name in EXPLICIT):
        address, count, index = explicit(environment)
        if count > 1:
            if index:
                _wait_for(address)
            # "deactivate": what else the environment says (Slurm, say) does not count.
            _initialize(address, count, index, cluster_detection_method="deactivate")
    elif "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        _initialize(local_device_ids=slurm_devices(environment))
    elif _several_tpu_hosts(environment):
        _initialize()
    if jax.distributed.is_initialized() and not is_writer():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)


def _initialize(*job: Any, **options: Any) -> None:
    options |= {"initialization_timeout": START_SECONDS, "heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    _leave_last_words()
    try:
        jax.distributed.initialize(*job, **options)
    except RuntimeError as error:
        raise ConnectionError(
            f"the processes of this job did not find one another within {START_SECONDS} s "
            f"({str(error).splitlines()[0]}); start all of them, with the same coordinator address"
        ) from error
    if jax.default_backend() == "cpu":
        # There only the first process finds its programs in the cache; the others would compile while it waits for them
        # in its first collective, longer than the 30 s that Gloo allows.
        jax.config.update("jax_enable_compilation_cache", False)


def _leave_last_words() -> None:
    """A shell that speaks when this process ends without a word: jax aborts it when it learns that another one died,
    and nothing of ours runs then. It reads from a pipe, which says something after an ordinary end."""
    global _shell
    _shell = subprocess.Popen(["sh", "-c", _LAST_WORDS], stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(_say_nothing)


def _say_nothing() -> None:
    if _shell is not None and _shell.poll() is None:
        _shell.communicate(b"said\n")


def explicit(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """The coordinator's address, the number of processes and this one's index. Raises ValueError naming a variable."""
    missing = [name for name in EXPLICIT if not environment.get(name)]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} is not set; a job of several processes needs {', '.join(EXPLICIT)}, "
            "and a lone process none of them"
        )
    address, *numbers = (environment[name] for name in EXPLICIT)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"JAX_COORDINATOR_ADDRESS is {address!r}; it is HOST:PORT of process 0, such as 10.0.0.2:8476")
    for name, text in zip(EXPLICIT[1:], numbers, strict=True):
        if not text.isdigit():
            raise ValueError(f"{name} is {text!r}; it is a whole number")
    count, index = map(int, numbers)
    if index >= count:
        raise ValueError(f"JAX_PROCESS_ID is {index}; with JAX_NUM_PROCESSES={count} it goes from 0 to {count - 1}")
    return address, count, index


def slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of this Slurm task among those it sees: its share, or all where it sees no other task's.

    None where Slurm gives no GPUs, or JAX_LOCAL_DEVICE_IDS says which. JAX alone would always take one a task.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if not visible or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    gpus = len(visible.split(","))
    tasks = int(environment["SLURM_NTASKS"]) // int(environment["SLURM_STEP_NUM_NODES"])
    if gpus < tasks:
        return list(range(gpus))
    share, place = gpus // tasks, int(environment["SLURM_LOCALID"])
    return list(range(place * share, (place + 1) * share))


def _several_tpu_hosts(environment: Mapping[str, str]) -> bool:
    """Whether this is a host of a TPU pod slice with others, or of several slices."""
    if "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return False
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    slices = environment.get("MEGASCALE_NUM_SLICES")
    # Importing jax has set TPU_SKIP_MDS_QUERY on every machine without TPU chips.
    if hosts is None and "TPU_SKIP_MDS_QUERY" not in environment:
        hosts = _metadata(environment, "worker-network-endpoints")
        lines = (line.partition(":") for line in _metadata(environment, "tpu-env").splitlines())
        slices = slices or {key.strip(): value.strip(" '") for key, _, value in lines}.get("MEGASCALE_NUM_SLICES")
    return "," in (hosts or "") or int(slices or 1) > 1


def _metadata(environment: Mapping[str, str], key: str) -> str:
    """An attribute of this virtual machine on Google's cloud; empty where there is none."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    try:
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _wait_for(address: str) -> None:
    """Return when process 0 listens. Raises ConnectionError naming the address; jax's own wait aborts the process."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"JAX_COORDINATOR_ADDRESS {address}: not reached within {START_SECONDS} s ({error}); "
                    "start process 0, and look at the address and the firewall"
                ) from error
            time.sleep(0.2)


def is_writer() -> bool:
    """Whether this process writes logs and result files: the first one."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def from_first(answer: Any) -> Any:
    """Process 0's value on every process: something small that JSON can hold. All processes must call it."""
    if jax.process_count() == 1:
        return answer
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(np.resize(text, size))))


def lost(error: Exception) -> str | None:
    """What to tell of an error that the end of another process brought; None for any other error."""
    text = str(error)
    if not jax.distributed.is_initialized() or not any(word in text.lower() for word in _GONE):
        return None
    return f"another process of this job is gone ({text.splitlines()[0][:120]}); {_AGAIN}"


def leave(code: int) -> None:
    """End this process at once after a failure in a job of several: an ordinary exit would wait for the others."""
    if jax.distributed.is_initialized():
        _say_nothing()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
