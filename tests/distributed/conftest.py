"""Jobs of several real processes over loopback, two fake devices each, running the real command line."""

import contextlib
import dataclasses
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from worlds import Result, without_gloo


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class Job:
    """Processes that were started; each one's output is in files under ``logs``."""

    processes: Sequence[subprocess.Popen]
    logs: Path

    def kill(self, index: int, when: Callable[[], bool]) -> float:
        """SIGKILL one process as soon as ``when`` says so; the seconds until all had ended after that."""
        deadline = time.monotonic() + 400
        while not when():
            assert time.monotonic() < deadline, self.results()
            assert self.processes[index].poll() is None, self.results()
            time.sleep(0.005)
        self.processes[index].send_signal(signal.SIGKILL)
        begun = time.monotonic()
        self.wait()
        return time.monotonic() - begun

    def wait(self, seconds: float = 600) -> list[Result]:
        """Until all have ended; what they said, without the lines of the collectives' library."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.wait(max(0.1, deadline - time.monotonic()))
        return self.results()

    def results(self) -> list[Result]:
        """What they said until now."""
        out = []
        for n, process in enumerate(self.processes):
            said, err = ((self.logs / f"{n}.{name}").read_text() for name in ("out", "err"))
            out.append(Result(process.poll(), without_gloo(said), err))
        return out


@pytest.fixture
def start(environment: Callable[..., Mapping[str, str]], tmp_path: Path):
    """Starts a job: so many processes, and the command line of each. What is left of it ends with the test."""
    with contextlib.ExitStack() as stack:

        def begin(count: int, *argv: object, **variables: str) -> Job:
            logs = tmp_path / f"job-{time.monotonic_ns()}"
            logs.mkdir()
            address = f"127.0.0.1:{free_port()}"
            processes = []
            for n in range(count):
                job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(n)}
                out, err = (stack.enter_context((logs / f"{n}.{name}").open("w")) for name in ("out", "err"))
                command = [sys.executable, "-m", "instructblip_jax", *map(str, argv)]
                env = {**environment(2), **job, **variables}
                processes.append(subprocess.Popen(command, env=env, stdout=out, stderr=err))
                stack.callback(processes[-1].kill)
            return Job(processes, logs)

        yield begin
