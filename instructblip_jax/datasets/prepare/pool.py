"""Shards written by several processes, which do not import jax and do not outlive the one that started them."""

import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

from instructblip_jax.datasets.prepare.shard import Job, write_shard

Run = Callable[[Iterator[Job]], Iterator[int]]
"""Does all jobs, a few at a time; yields the number of rows of each as it is finished."""
WAITING = 2
"""Number of jobs in reserve: enough that no process waits, few enough to fit in memory."""


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def here(jobs: Iterator[Job]) -> Iterator[int]:
    """Do the jobs in this process."""
    for job in jobs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about unusual images that can still be decoded
            yield write_shard(job)


class Pool:
    """``workers`` processes, started when there is more than one job. A context manager."""

    def __init__(self, workers: int | None = None):
        self._workers = workers or cores()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: Iterator[Job]) -> Iterator[int]:
        """See `Run`. Raises OSError if a process was killed."""
        first = list(itertools.islice(jobs, 2)) if self._executor is None else []
        if len(first) == 1 or self._workers == 1:
            yield from here(iter(first))
            if self._workers == 1:
                yield from here(jobs)
            return
        executor = self._started()
        running: set[Future[int]] = {executor.submit(write_shard, job) for job in first}
        try:
            for job in jobs:
                running.add(executor.submit(write_shard, job))
                while len(running) >= self._workers + WAITING:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise OSError(
                "a process that was writing a shard was killed, which happens when memory runs out; use fewer "
                "--workers; finished shards are kept"
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # Fresh processes: this one may hold threads (jax's, for example), which do not survive a fork.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["instructblip_jax.datasets.prepare.shard"])
            self._executor = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_begin)
        return self._executor


def _begin() -> None:
    """Make a process of the pool end with its parent in any case, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
