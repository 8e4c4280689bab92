"""Two processes that take turns: a benchmark's sides, each in its own, and only one at work at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Worker:
    """This benchmark's own script, started once more with other arguments: it answers each line that it is sent."""

    def __init__(self, arguments: Sequence[str]):
        command = [sys.executable, sys.argv[0], *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request: Any) -> Any:
        """Send what `serve`'s function is to be called with, wait, and return what it returned."""
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
    """A worker's loop: every line holds the arguments of a call, and is answered with its result, both as JSON."""
    for line in sys.stdin:
        print(json.dumps(function(**json.loads(line))), flush=True)


def fewest_seconds(set_threads: Callable[[int], None], seconds: Callable[[], float]) -> int:
    """The number of threads, one or all, with which ``seconds`` is less; it is set on return."""

    def timed(threads: int) -> float:
        set_threads(threads)
        return seconds()

    best = min((1, os.cpu_count() or 1), key=timed)
    set_threads(best)
    return best
