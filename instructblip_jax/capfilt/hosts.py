"""Several hosts, each with its own parts, at its own speed, synchronised through a directory, not the network.

All hosts would have to reach a collective operation within seconds of one another; parts may differ by more.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from instructblip_jax import distributed

POLL = 0.2
"""Seconds between two checks of the directory."""
T = TypeVar("T")


@contextlib.contextmanager
def together(folder: Path) -> Iterator[None]:
    """A block that every process leaves after the first one; ``folder`` is created.

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
    """Wait until ``look`` returns a result, and return it. (If a host ends, jax ends the others.)"""
    while (found := look()) is None:
        time.sleep(POLL)
    return found
