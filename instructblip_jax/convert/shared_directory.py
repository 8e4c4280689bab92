"""A directory that all processes of a job write together, completely or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from instructblip_jax import distributed
from instructblip_jax.convert.new_directory import new_directory
from instructblip_jax.convert.write import Share


@contextlib.contextmanager
def shared_directory(out: Path, size: int) -> Iterator[tuple[Path, Share]]:
    """`new_directory` for a job: yields the directory that the first process created, and this process's share.

    The first process creates it and, when all have left the block, renames it to ``out``; all return after that.
    Processes that do not see it, because ``out`` is on the first one's local disk, have no share. An error in one
    process is an error in all of them, and nothing is left. A process that continues in the block after an error of
    another one must not wait for it. Raises as `new_directory` does.
    """
    with distributed.together(), contextlib.ExitStack() as stack:
        made = None
        with distributed.together():
            if distributed.is_writer():
                made = stack.enter_context(new_directory(out, size))
        if not distributed.several():
            assert made is not None
            yield made, Share()
            return
        directory = Path(distributed.from_first(str(made)))
        sees = distributed.from_all(directory.is_dir())
        before = sum(sees[: distributed.index()])
        share = Share(before if sees[distributed.index()] else None, sum(sees))
        with distributed.together():
            yield directory, share
