"""Worker processes for a benchmark's sides, which take turns so that only one works at a time."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


class Worker:
    """The running benchmark's script, started again with other arguments; it answers each request (see `serve`).

    ``program``: another Python and script in its place.
    """

    def __init__(self, arguments: Sequence[str], program: Sequence[str] = (sys.executable, sys.argv[0])):
        command = [*program, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request: Any) -> Any:
        """Call the function of `serve` in the worker with these arguments, and return its result."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a worker ended early; its message is above")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(function: Callable[..., Any]) -> None:
    """The worker's loop: read the arguments of a call, a JSON object a line, and write its result as JSON."""
    for line in sys.stdin:
        print(json.dumps(function(**json.loads(line))), flush=True)


def fewest_seconds(set_threads: Callable[[int], None], seconds: Callable[[], float]) -> int:
    """Return and set the number of threads, one or all, with which ``seconds`` is less."""

    def timed(threads: int) -> float:
        set_threads(threads)
        return seconds()

    best = min((1, os.cpu_count() or 1), key=timed)
    set_threads(best)
    return best


def timed(one: Callable[[], Any], calls: int) -> dict[str, float]:
    """Run ``one`` some times: wall seconds a call, and this process's CPU seconds and peak bytes so far."""
    begun = time.perf_counter()
    for _ in range(calls):
        one()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": (time.perf_counter() - begun) / max(1, calls),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }
