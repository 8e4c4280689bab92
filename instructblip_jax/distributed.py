"""Jobs of several processes, configured by the environment. A single process needs no configuration.

Recognized, in this order: JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID, all three; a Slurm
step of several tasks; the hosts of a TPU pod slice, or of several slices. Every process runs the same command.
"""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
START_SECONDS = 300
"""Seconds that the processes of a job wait for one another at the start."""
HEARTBEAT_SECONDS = 40
"""A process that sends nothing for this long is considered dead, and the others end."""
_AGAIN = "start the job again: it resumes from the last checkpoint"
_OBITUARY = (
    'read -r line || echo "instructblip: this process was aborted, most likely because another process of this job '
    f'died, whose own messages may say why; {_AGAIN}" >&2'
)
_PEER_LOST = ("gloo", "coordination service", "heartbeat", "connection closed by peer", "connection reset", "barrier")
"""Words, in lower case, of the errors that the end of another process causes."""


_obituary: subprocess.Popen | None = None


def start() -> None:
    """Join the job that the environment describes. Call it before any other use of jax.

    Only the first process prints: the standard output of the others is discarded (standard error is not).

    Raises ValueError if the environment is wrong or incomplete, ConnectionError if the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    environment = os.environ
    if any(name in environment for name in EXPLICIT):
        address, count, index = explicit(environment)
        if count > 1:
            if index:
                _wait_for(address)
            # "deactivate": ignore what else is in the environment, such as Slurm's variables.
            _initialize(address, count, index, cluster_detection_method="deactivate")
    elif "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        _initialize(local_device_ids=slurm_devices(environment))
    elif _several_tpu_hosts(environment):
        _initialize()
    if jax.distributed.is_initialized() and not is_writer():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)


def _initialize(*job: Any, **options: Any) -> None:
    options |= {"initialization_timeout": START_SECONDS, "heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    _start_obituary()
    try:
        jax.distributed.initialize(*job, **options)
    except RuntimeError as error:
        raise ConnectionError(
            f"the processes of this job did not find one another within {START_SECONDS} s "
            f"({str(error).splitlines()[0]}); start all of them, with the same coordinator address"
        ) from error
    if jax.default_backend() == "cpu":
        # On CPU only the first process finds its programs in the cache; the others would still be compiling while it
        # waits in its first collective, for longer than the 30 s that Gloo allows.
        jax.config.update("jax_enable_compilation_cache", False)


def _start_obituary() -> None:
    """Start a shell that prints `_OBITUARY` if this process is aborted.

    When another process dies, jax calls abort(): no Python of this process runs any more. The shell reads from a pipe.
    After a normal exit it gets a line; after an abort the pipe is closed without one, and it prints.
    """
    global _obituary
    _obituary = subprocess.Popen(["sh", "-c", _OBITUARY], stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(_cancel_obituary)


def _cancel_obituary() -> None:
    if _obituary is not None and _obituary.poll() is None:
        _obituary.communicate(b"normal exit\n")


def explicit(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """The coordinator's address, the number of processes and the index of this one, from the three variables.

    Raises ValueError naming the variable that is missing or wrong.
    """
    missing = [name for name in EXPLICIT if not environment.get(name)]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} is not set; a job of several processes needs {', '.join(EXPLICIT)}, "
            "and a single process none of them"
        )
    address, *numbers = (environment[name] for name in EXPLICIT)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address!r}; it must be HOST:PORT of process 0, such as 10.0.0.2:8476"
        )
    for name, text in zip(EXPLICIT[1:], numbers, strict=True):
        if not text.isdigit():
            raise ValueError(f"{name} is {text!r}; it must be a whole number")
    count, index = map(int, numbers)
    if index >= count:
        raise ValueError(f"JAX_PROCESS_ID is {index}; with JAX_NUM_PROCESSES={count} it must be from 0 to {count - 1}")
    return address, count, index


def slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Indices of this Slurm task's GPUs among the visible ones: its share, or all if they are visible to it alone.

    None if Slurm assigns no GPUs or JAX_LOCAL_DEVICE_IDS selects them. JAX's own default is one GPU per task.
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
    """True on a host of a TPU pod slice that has several hosts, or of one of several slices."""
    if "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return False
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    slices = environment.get("MEGASCALE_NUM_SLICES")
    # Importing jax sets TPU_SKIP_MDS_QUERY on machines without TPU chips.
    if hosts is None and "TPU_SKIP_MDS_QUERY" not in environment:
        hosts = _metadata(environment, "worker-network-endpoints")
        lines = (line.partition(":") for line in _metadata(environment, "tpu-env").splitlines())
        slices = slices or {key.strip(): value.strip(" '") for key, _, value in lines}.get("MEGASCALE_NUM_SLICES")
    return "," in (hosts or "") or int(slices or 1) > 1


def _metadata(environment: Mapping[str, str], key: str) -> str:
    """An attribute of this Google Cloud virtual machine; "" if there is none."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    try:
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _wait_for(address: str) -> None:
    """Wait until process 0 listens. Raises ConnectionError naming the address; jax's own wait would abort instead."""
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
                    "start process 0, and check the address and the firewall"
                ) from error
            time.sleep(0.2)


def is_writer() -> bool:
    """True in the first process, the only one that writes logs and result files."""
    return index() == 0


def index() -> int:
    """The index of this process in its job. Unlike jax.process_index, this does not start a backend."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def barrier(name: str) -> None:
    """Wait until every process has reached this call. ``name`` is the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def several() -> bool:
    """True in a job of several processes. Unlike jax.process_count, this does not start a backend."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def from_first(value: Any) -> Any:
    """Broadcast process 0's value, small and JSON-serializable, to all processes. All of them must call it."""
    return value if jax.process_count() == 1 else _from(0, value)


def _from(process: int, value: Any) -> Any:
    text, source = np.frombuffer(json.dumps(value).encode(), np.uint8), jax.process_index() == process
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size), source))
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(np.resize(text, size), source)))


def from_all(value: bool) -> list[bool]:
    """The value of every process, in their order. All of them must call it."""
    return multihost_utils.process_allgather(np.bool_(value)).tolist() if several() else [value]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block of all processes that fails in all of them if it fails in one, so that none waits for it.

    The block itself must not wait for other processes after something that may fail in one of them. A process raises
    its own error, or ValueError with the message of the first one that has any.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    failed = [process for process, wrong in enumerate(from_all(error is not None)) if wrong]
    if failed and several():
        message = _from(failed[0], str(error) if isinstance(error, (ValueError, OSError)) else repr(error))
        error = error or ValueError(f"process {failed[0]} of this job failed: {message}")
    if error:
        raise error


def lost(error: Exception) -> str | None:
    """Message for an error that the end of another process caused; None for any other error."""
    text = str(error)
    if not jax.distributed.is_initialized() or not any(word in text.lower() for word in _PEER_LOST):
        return None
    return f"another process of this job is gone ({text.splitlines()[0][:120]}); {_AGAIN}"


def leave(code: int) -> None:
    """End this process at once after a failure, if it is one of several: a normal exit would wait for the others."""
    if jax.distributed.is_initialized():
        _cancel_obituary()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
