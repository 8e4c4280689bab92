"""Several hosts, each over parts of its own, at its own speed: they meet in a directory, not in the network.

Collective operations would have to be reached by all hosts within seconds; parts may differ by more.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from instructblip_jax import distributed

POLL = 0.2
"""Seconds between two looks at the directory."""
T = TypeVar("T")


@contextlib.contextmanager
def together(folder: Path) -> Iterator[None]:
    """A block that every process leaves when the first one has left it; ``folder`` is made.

    Raises ValueError in all processes if they do not share the folder, OSError if it cannot be written.
    """
    mark = folder / "running"
    token = distributed.from_first(secrets.token_hex(8))
    with distributed.together():
        if distributed.is_writer():
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text(token)
    if not all(distributed.from_all(mark.is_file() and mark.read_text() == token)):
        raise ValueError(f"{folder}: the processes of this job do not share it; choose an --out that all of them see")
    yield
    if distributed.is_writer():
        mark.unlink()
    else:
        awaited(lambda: None if mark.is_file() and mark.read_text() == token else True)


def awaited(look: Callable[[], T | None]) -> T:
    """Wait until ``look`` finds something, and return that. (If a host ends, jax ends the others.)"""
    while (found := look()) is None:
        time.sleep(POLL)
    return found
